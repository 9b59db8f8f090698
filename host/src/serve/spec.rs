//! What endpoints should be: a file, or what the command line says.

mod graph;
mod yaml;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use axum::http::HeaderName;
use serde::Deserialize;

use self::graph::{GraphFields, MemberFields, NodeFields, SwitchFields};
use super::batcher::AUTO_ROWS_MAX;
use super::{BatchPolicy, Node, QueueLimits};
use crate::domain::Name;
use crate::registry::ModelReference;

/// The version of the format of endpoint files.
const FORMAT_VERSION: u64 = 1;

/// Largest endpoint file.
pub const ENDPOINT_FILE_MAX_BYTES: usize = 1024 * 1024;

/// Endpoints of one file.
const ENDPOINTS_MAX: usize = 1_000;

/// Models that share an endpoint's requests.
const ROUTES_MAX: usize = 16;

/// The largest weight.
const WEIGHT_MAX: u32 = 1_000_000;

/// Replaced versions of one endpoint that may stay loaded.
const KEPT_MAX: usize = 16;

/// What is said of an endpoint made of others that is to do what only those can.
const ONLY_OF_PARTS: &str =
    "`sticky`, `keep`, `shadow`, `batch` and `cache_mib` are for the endpoints that it is made of";

/// Shadows of one endpoint.
const SHADOWS_MAX: usize = 4;

/// Rows that are computed together.
const BATCH_ROWS_MAX: u64 = 4_096;

/// A batch may wait for a second.
const BATCH_DELAY_US_MAX: u64 = 1_000_000;

/// How long a batch that is not full waits where nobody says how long: not at all.
const BATCH_DELAY_US_DEFAULT: u64 = 0;

/// Requests of one endpoint that are computed at once.
const CONCURRENCY_MAX: u64 = 4_096;

/// Requests of one endpoint that wait.
const QUEUE_MAX: u64 = 65_536;

/// A request may wait for an hour.
const TIMEOUT_MS_MAX: u64 = 3_600_000;

/// Mebibytes of answers that an endpoint keeps: 64 GiB.
const CACHE_MIB_MAX: u64 = 65_536;

/// Replaced versions that stay loaded where nobody says how many.
pub const KEPT_DEFAULT: usize = 1;

/// What an endpoint should be.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// Its name.
    pub name: Name,
    /// Who should answer, with their parts of the requests; nobody where the endpoint is a graph.
    pub routes: Vec<RouteSpec>,
    /// Which endpoints it is made of, where it is made of others.
    pub graph: Option<Node>,
    /// Header by which requests stay with one of several.
    pub sticky: Option<HeaderName>,
    /// How many of the versions that were replaced stay loaded.
    pub kept: usize,
    /// Who is given requests too, for comparison, and how many of a hundred.
    pub shadows: Vec<ShadowSpec>,
    /// How requests are computed.
    pub policy: EndpointPolicy,
}

impl EndpointSpec {
    /// The models that it names.
    pub fn models(&self) -> impl Iterator<Item = &ModelReference> {
        self.routes.iter().map(|route| &route.model).chain(self.shadows.iter().map(|shadow| &shadow.model))
    }
}

/// A model that is given requests of an endpoint for comparison.
#[derive(Debug, Clone, PartialEq)]
pub struct ShadowSpec {
    /// The model.
    pub model: ModelReference,
    /// How many of a hundred requests.
    pub percent: u32,
}

/// How requests of an endpoint are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointPolicy {
    /// How many at once, and how many may wait.
    pub queue: QueueLimits,
    /// Whether requests are computed together.
    pub batch: Option<BatchPolicy>,
    /// Bytes of answers that are kept; 0 keeps none.
    pub cache_bytes: u64,
}

impl Default for EndpointPolicy {
    fn default() -> Self {
        Self { queue: QueueLimits::default(), batch: Some(BatchPolicy::Auto), cache_bytes: 0 }
    }
}

/// How requests are computed, as it is written; what is left out has its default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PolicyFields {
    /// Rows that are computed together at most; 0 and 1 compute each request alone.
    pub batch_rows: Option<usize>,
    /// Longest time that a batch waits to become full, in microseconds.
    pub batch_delay_us: Option<u64>,
    /// Requests, or batches, that are computed at once.
    pub concurrency: Option<usize>,
    /// Requests that may wait.
    pub queue: Option<usize>,
    /// Longest that one waits, in milliseconds.
    pub timeout_ms: Option<u64>,
    /// Mebibytes of answers that are kept.
    pub cache_mib: Option<u64>,
}

impl PolicyFields {
    /// The policy, if every field is within its limits; otherwise what is wrong.
    pub fn policy(self) -> Result<EndpointPolicy, String> {
        let within = |name: &str, found: Option<u64>, from: u64, to: u64| match found {
            Some(found) if found < from || found > to => {
                Err(format!("`{name}` is {found}: expected from {from} to {to}"))
            }
            _ => Ok(()),
        };
        let size = |size: Option<usize>| size.map(|size| size as u64);
        within("batch rows", size(self.batch_rows), 0, BATCH_ROWS_MAX)?;
        within("batch delay_us", self.batch_delay_us, 0, BATCH_DELAY_US_MAX)?;
        within("concurrency", size(self.concurrency), 1, CONCURRENCY_MAX)?;
        within("queue", size(self.queue), 0, QUEUE_MAX)?;
        within("timeout_ms", self.timeout_ms, 0, TIMEOUT_MS_MAX)?;
        within("cache_mib", self.cache_mib, 0, CACHE_MIB_MAX)?;
        let delay_us = self.batch_delay_us.unwrap_or(BATCH_DELAY_US_DEFAULT);
        let usual = QueueLimits::default();
        let waiting = self.queue.unwrap_or(usual.waiting);
        let batch = match self.batch_rows {
            // Who gathers waits, if only for a moment.
            None => (waiting >= AUTO_ROWS_MAX).then_some(BatchPolicy::Auto),
            Some(0 | 1) => None,
            Some(max) => Some(BatchPolicy::Rows { max, delay_us }),
        };
        // More batches at once than cores would only be smaller ones.
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        let concurrency =
            if matches!(batch, Some(BatchPolicy::Rows { .. })) { cores() } else { usual.concurrency };
        let queue = QueueLimits {
            concurrency: self.concurrency.unwrap_or(concurrency),
            waiting,
            timeout_ms: self.timeout_ms.unwrap_or(usual.timeout_ms),
        };
        Ok(EndpointPolicy { queue, batch, cache_bytes: self.cache_mib.unwrap_or(0) * 1024 * 1024 })
    }
}

/// A model that should answer, and its part of the requests.
#[derive(Debug, Clone, PartialEq)]
pub struct RouteSpec {
    /// The model.
    pub model: ModelReference,
    /// Its part: this weight of the sum of all.
    pub weight: u32,
}

/// An endpoint file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EndpointFileError(String);

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "`version` and `endpoints`")]
struct FileFields {
    version: u64,
    endpoints: BTreeMap<String, EndpointFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "the fields of an endpoint, such as `model`")]
struct EndpointFields {
    model: Option<String>,
    traffic: Option<Vec<RouteFields>>,
    sequence: Option<Vec<NodeFields>>,
    switch: Option<SwitchFields>,
    ensemble: Option<Vec<MemberFields>>,
    sticky: Option<String>,
    keep: Option<usize>,
    #[serde(default)]
    shadow: Vec<ShadowFields>,
    batch: Option<BatchFields>,
    concurrency: Option<usize>,
    queue: Option<usize>,
    timeout_ms: Option<u64>,
    cache_mib: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "`model` and `percent` of a shadow")]
struct ShadowFields {
    model: String,
    percent: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "`rows` and `delay_us` of a batch")]
struct BatchFields {
    rows: usize,
    delay_us: Option<u64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "`model` and `weight` of a part of `traffic`")]
struct RouteFields {
    model: String,
    weight: u32,
}

impl EndpointSpec {
    /// An endpoint that one model answers.
    pub fn of_model(name: Name, model: ModelReference) -> Self {
        let (shadows, policy) = (Vec::new(), EndpointPolicy::default());
        Self {
            graph: None,
            name,
            routes: vec![RouteSpec { model, weight: 1 }],
            sticky: None,
            kept: KEPT_DEFAULT,
            shadows,
            policy,
        }
    }

    /// Reads an endpoint file; bundle folders that it names start from `folder`.
    pub fn parse_file(text: &str, folder: &Path) -> Result<Vec<Self>, EndpointFileError> {
        let refuse = |message: String| Err(EndpointFileError(message));
        if text.len() > ENDPOINT_FILE_MAX_BYTES {
            return refuse(format!("has {} bytes: expected at most {ENDPOINT_FILE_MAX_BYTES}", text.len()));
        }
        let fields: FileFields = serde_saphyr::from_str_with_options(text, yaml::options())
            .map_err(|error| EndpointFileError(yaml::message(&error, text)))?;
        if fields.version != FORMAT_VERSION {
            return refuse(format!("`version` is {}: expected {FORMAT_VERSION}", fields.version));
        }
        if fields.endpoints.len() > ENDPOINTS_MAX {
            return refuse(format!("{} endpoints: expected at most {ENDPOINTS_MAX}", fields.endpoints.len()));
        }
        let endpoint = |(name, fields): (String, EndpointFields)| {
            let wrong = |message: String| EndpointFileError(format!("endpoint `{name}`: {message}"));
            let parsed = name
                .parse()
                .map_err(|error: crate::domain::NameError| EndpointFileError(error.to_string()))?;
            fields.spec(parsed, folder).map_err(wrong)
        };
        let specs = fields.endpoints.into_iter().map(endpoint).collect::<Result<Vec<_>, _>>()?;
        check_graphs(&specs)?;
        Ok(specs)
    }
}

/// The endpoints that graphs are made of must be there, and be no graphs: so no graph can ask itself.
fn check_graphs(specs: &[EndpointSpec]) -> Result<(), EndpointFileError> {
    for spec in specs {
        for part in spec.graph.iter().flat_map(Node::endpoints) {
            let found = specs.iter().find(|other| other.name == *part);
            let wrong = match found {
                Some(found) if found.graph.is_none() => continue,
                Some(_) => "which is made of others itself: expected one with a model",
                None => "which is not there",
            };
            return Err(EndpointFileError(format!("endpoint `{}` is made of `{part}`, {wrong}", spec.name)));
        }
    }
    Ok(())
}

impl EndpointFields {
    fn spec(self, name: Name, folder: &Path) -> Result<EndpointSpec, String> {
        let policy = self.policy()?;
        let shadows = self.shadows(folder)?;
        let graph = GraphFields { sequence: self.sequence, switch: self.switch, ensemble: self.ensemble };
        let routes = match (self.model, self.traffic, graph.is_empty()) {
            (Some(model), None, true) => vec![RouteFields { model, weight: 1 }],
            (None, Some(traffic), true) => traffic,
            (None, None, false) => {
                let graph = Some(graph.node()?);
                // Answers are not kept either: the endpoints that it asks may be other versions by then.
                let is_of_parts = self.sticky.is_some() || self.keep.is_some() || !shadows.is_empty();
                let batches = matches!(policy.batch, Some(BatchPolicy::Rows { .. }));
                if is_of_parts || batches || policy.cache_bytes > 0 {
                    return Err(ONLY_OF_PARTS.to_owned());
                }
                let of_graph =
                    EndpointSpec { name, routes: Vec::new(), graph, sticky: None, kept: 0, shadows, policy };
                return Ok(of_graph);
            }
            _ => {
                return Err(
                    "expected one of `model`, `traffic`, `sequence`, `switch` and `ensemble`".to_owned()
                );
            }
        };
        if routes.is_empty() || routes.len() > ROUTES_MAX {
            return Err(format!("`traffic` has {} models: expected from 1 to {ROUTES_MAX}", routes.len()));
        }
        if let Some(route) = routes.iter().find(|route| route.weight > WEIGHT_MAX) {
            return Err(format!(
                "the weight of `{}` is {}: expected at most {WEIGHT_MAX}",
                route.model, route.weight
            ));
        }
        if routes.iter().all(|route| route.weight == 0) {
            return Err("all weights are 0: expected one that is not".to_owned());
        }
        let sticky = self.sticky.map(|name| {
            let parsed = name.parse::<HeaderName>();
            parsed.map_err(|_| format!("`sticky` is `{name}`: expected the name of a header"))
        });
        let kept = self.keep.unwrap_or(KEPT_DEFAULT);
        if kept > KEPT_MAX {
            return Err(format!("`keep` is {kept}: expected at most {KEPT_MAX}"));
        }
        let route = |route: RouteFields| {
            let model = model_in(folder, &route.model)?;
            Ok::<_, String>(RouteSpec { model, weight: route.weight })
        };
        let routes = routes.into_iter().map(route).collect::<Result<Vec<_>, _>>()?;
        // There are several ways to write one.
        let models: HashSet<&ModelReference> = routes.iter().map(|route| &route.model).collect();
        if models.len() < routes.len() {
            return Err("`traffic` has a model twice".to_owned());
        }
        Ok(EndpointSpec { name, routes, graph: None, sticky: sticky.transpose()?, kept, shadows, policy })
    }

    fn policy(&self) -> Result<EndpointPolicy, String> {
        let fields = PolicyFields {
            batch_rows: self.batch.as_ref().map(|batch| batch.rows),
            batch_delay_us: self.batch.as_ref().and_then(|batch| batch.delay_us),
            concurrency: self.concurrency,
            queue: self.queue,
            timeout_ms: self.timeout_ms,
            cache_mib: self.cache_mib,
        };
        fields.policy()
    }

    fn shadows(&self, folder: &Path) -> Result<Vec<ShadowSpec>, String> {
        if self.shadow.len() > SHADOWS_MAX {
            return Err(format!("`shadow` has {} models: expected at most {SHADOWS_MAX}", self.shadow.len()));
        }
        let shadow = |ShadowFields { model, percent }: &ShadowFields| {
            let percent = percent.unwrap_or(100);
            if !(1..=100).contains(&percent) {
                return Err(format!("`percent` of `{model}` is {percent}: expected from 1 to 100"));
            }
            let model = model_in(folder, model)?;
            Ok(ShadowSpec { model, percent })
        };
        self.shadow.iter().map(shadow).collect()
    }
}

/// The model that `text` means, where folders start from `folder`. A folder's path is without the `.` between its parts, which
/// nobody needs to read; `..` stays, which means another folder where a part is a link.
fn model_in(folder: &Path, text: &str) -> Result<ModelReference, String> {
    match ModelReference::parse_in(folder, text).map_err(|error| error.to_string())? {
        ModelReference::Folder(path) => Ok(ModelReference::Folder(path.components().collect())),
        named => Ok(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<EndpointSpec>, String> {
        EndpointSpec::parse_file(text, Path::new(".")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_says_who_answers() {
        let text = "
version: 1
endpoints:
  digits: { model: mnist@champion, keep: 0 }
  fraud:
    traffic:
      - { model: fraud@champion, weight: 90 }
      - { model: fraud@challenger, weight: 10 }
    sticky: X-User-Id
    shadow: [{ model: fraud@next, percent: 10 }]
    batch: { rows: 32 }
    queue: 100
    cache_mib: 16
";
        let specs = parse(text).unwrap();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["digits", "fraud"]);
        assert_eq!((specs[0].kept, specs[1].kept), (0, KEPT_DEFAULT));
        let weights: Vec<u32> = specs[1].routes.iter().map(|route| route.weight).collect();
        assert_eq!(weights, [90, 10]);
        assert_eq!(specs[1].sticky.as_ref().unwrap().as_str(), "x-user-id");
        assert_eq!(specs[0].policy, EndpointPolicy::default());
        let policy = specs[1].policy;
        assert_eq!(policy.batch, Some(BatchPolicy::Rows { max: 32, delay_us: 0 }));
        assert_eq!((policy.queue.waiting, policy.cache_bytes), (100, 16 * 1024 * 1024));
        assert_eq!(policy.queue.concurrency, std::thread::available_parallelism().unwrap().get());
        assert_eq!((specs[1].shadows.len(), specs[1].shadows[0].percent), (1, 10));
    }

    #[test]
    fn an_endpoint_may_be_made_of_others() {
        let text = "
version: 1
endpoints:
  a: { model: a }
  b: { model: b }
  one-after-the-other: { sequence: [a, b] }
  by-country:
    switch: { column: country, cases: { ch: a, de: { sequence: [b, a] } }, default: b }
  all: { ensemble: [a, { endpoint: b, weight: 2.5 }] }
  by-code: { ensemble: [{ switch: { column: code, cases: { 01: a, 1: b, no: b, true: a } } }] }
";
        let specs = parse(text).unwrap();
        let graph = |name: &str| {
            specs.iter().find(|spec| spec.name.as_str() == name).and_then(|spec| spec.graph.clone()).unwrap()
        };
        let (a, b) = (Node::Endpoint("a".parse().unwrap()), Node::Endpoint("b".parse().unwrap()));
        assert_eq!(graph("one-after-the-other"), Node::Sequence(vec![a.clone(), b.clone()]));
        assert_eq!(graph("all"), Node::Ensemble(vec![(a.clone(), 1.0), (b.clone(), 2.5)]));
        let Node::Switch { column, cases, otherwise } = graph("by-country") else { panic!("no switch") };
        assert_eq!((column.as_str(), otherwise.as_deref()), ("country", Some(&b)));
        assert_eq!(cases["de"], Node::Sequence(vec![b, a]));
        let Node::Ensemble(parts) = graph("by-code") else { panic!("no ensemble") };
        let [(Node::Switch { cases, .. }, _)] = parts.as_slice() else { panic!("no switch") };
        assert_eq!(cases.keys().collect::<Vec<_>>(), ["01", "1", "no", "true"], "text as it is written");
    }

    #[test]
    fn folders_are_told_without_needless_dots() {
        let base = tempfile::tempdir().unwrap();
        let bundle = base.path().join("bundle");
        std::fs::create_dir(&bundle).unwrap();
        std::fs::write(bundle.join("bundle.json"), "{}").unwrap();
        let told = |folder: &Path, text: &str| model_in(folder, text).unwrap().to_string();
        let plain = bundle.to_str().unwrap();
        for text in ["./bundle", "././bundle/.", "bundle/"] {
            assert_eq!(told(base.path(), text), plain, "{text}");
            assert_eq!(told(&base.path().join("./."), text), plain, "{text}");
        }
        assert_eq!(
            told(base.path(), "./bundle/../bundle"),
            format!("{plain}/../bundle"),
            "a link may be there"
        );
        assert_eq!(told(base.path(), "digits@1"), "digits@1");
        assert_eq!(told(base.path(), "bundle"), "bundle", "a model may be called so");
        let gone = base.path().join("gone");
        assert_eq!(told(base.path(), "./gone"), gone.to_str().unwrap(), "a folder that is not there is one");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let endpoint = |fields: &str| parse(&format!("version: 1\nendpoints:\n  e: {fields}\n")).unwrap_err();
        assert_eq!(
            endpoint("{}"),
            "endpoint `e`: expected one of `model`, `traffic`, `sequence`, `switch` and `ensemble`"
        );
        assert_eq!(
            endpoint("{ model: m, traffic: [] }"),
            "endpoint `e`: expected one of `model`, `traffic`, `sequence`, `switch` and `ensemble`"
        );
        assert_eq!(
            endpoint("{ traffic: [] }"),
            "endpoint `e`: `traffic` has 0 models: expected from 1 to 16"
        );
        assert_eq!(
            endpoint("{ traffic: [{ model: m, weight: 0 }] }"),
            "endpoint `e`: all weights are 0: expected one that is not"
        );
        assert_eq!(
            endpoint("{ traffic: [{ model: m, weight: 1 }, { model: m, weight: 2 }] }"),
            "endpoint `e`: `traffic` has a model twice"
        );
        assert_eq!(
            endpoint("{ traffic: [{ model: m@1, weight: 1 }, { model: 'models:/m/1', weight: 2 }] }"),
            "endpoint `e`: `traffic` has a model twice"
        );
        assert_eq!(
            endpoint("{ traffic: [{ model: m, weight: 2000000 }] }"),
            "endpoint `e`: the weight of `m` is 2000000: expected at most 1000000"
        );
        assert_eq!(
            endpoint("{ model: m, sticky: 'a b' }"),
            "endpoint `e`: `sticky` is `a b`: expected the name of a header"
        );
        assert_eq!(endpoint("{ model: m, keep: 17 }"), "endpoint `e`: `keep` is 17: expected at most 16");
        assert_eq!(
            endpoint("{ model: m, concurrency: 0 }"),
            "endpoint `e`: `concurrency` is 0: expected from 1 to 4096"
        );
        assert_eq!(
            endpoint("{ model: m, batch: { rows: 5000 } }"),
            "endpoint `e`: `batch rows` is 5000: expected from 0 to 4096"
        );
        assert_eq!(
            endpoint("{ model: m, shadow: [{ model: n, percent: 0 }] }"),
            "endpoint `e`: `percent` of `n` is 0: expected from 1 to 100"
        );
        assert_eq!(
            endpoint("{ sequence: [nobody] }"),
            "endpoint `e` is made of `nobody`, which is not there"
        );
        assert_eq!(
            endpoint("{ ensemble: [e] }"),
            "endpoint `e` is made of `e`, which is made of others itself: expected one with a model"
        );
        assert_eq!(endpoint("{ sequence: [] }"), "endpoint `e`: it has no endpoints");
        assert_eq!(endpoint("{ sequence: [a], keep: 1 }"), format!("endpoint `e`: {ONLY_OF_PARTS}"));
        assert_eq!(endpoint("{ sequence: [a], cache_mib: 1 }"), format!("endpoint `e`: {ONLY_OF_PARTS}"));
        assert!(endpoint("{ ensemble: [{ endpoint: a, weight: 0 }] }").contains("a weight is 0"));
        assert!(endpoint("{ model: 'a m' }").contains("names no model"));
        assert!(endpoint("{ modell: m }").contains("modell"));
        for (wrong, wanted) in [
            ("{ model: m, batch: { rows: -1 } }", "expected a whole number from 0, at line "),
            ("{ model: m, timeout_ms: 1e3 }", "expected a whole number from 0, at line "),
            ("{ model: m, keep: many }", "expected a whole number from 0, at line "),
            (
                "{ traffic: [{ model: m, weight: 0.5 }] }",
                "expected a whole number from 0 to 4294967295, at line ",
            ),
            ("{ ensemble: [{ endpoint: a, weight: much }] }", "expected a number, at line "),
        ] {
            let told = endpoint(wrong);
            assert!(told.contains(wanted), "{told}");
        }
        assert!(parse("version: 2\nendpoints: {}").unwrap_err().contains("`version` is 2"));
        assert!(
            parse("version: 1\nendpoints: { ../e: { model: m } }").unwrap_err().contains("is not a name")
        );
        let twice = parse("version: 1\nendpoints:\n  e: { model: m }\n  e: { model: n }\n").unwrap_err();
        assert_eq!(twice, "`e` stands there twice at line 4, column 3");
        for wrong in ["[]", "x", "{ model: m, batch: 1 }", "{ switch: x }", "{ model: m, shadow: [1] }"] {
            let told = endpoint(wrong);
            assert!(!told.contains("struct") && !told.contains("Fields"), "{told}");
        }
        let nested = format!("{}a{}", "{ sequence: [".repeat(10), "] }".repeat(10));
        let deep = format!("version: 1\nendpoints: {{ e: {nested} }}");
        assert_eq!(parse(&deep).unwrap_err(), "is nested too deeply: expected at most 16 levels");
        let many = format!("endpoints: {{ e: {{ ensemble: [{}] }} }}", "a,".repeat(60_000));
        assert_eq!(parse(&many).unwrap_err(), "is too large: expected at most 50000 values");
        assert!(parse("a: &a [x]\nb: *a").is_err());
        let anchor = parse("version: 1\nendpoints: { e: &a { model: m } }").unwrap_err();
        let line = "in `endpoints: { e: &a { model: m } }`";
        assert_eq!(anchor, format!("has an anchor or an alias: expected none, {line}"));
        assert_eq!(
            parse("version: 1\nendpoints: {}\n---\nversion: 1\n").unwrap_err(),
            "has a second document: expected one"
        );
        assert!(parse("").is_err() && parse("[").is_err());
    }
}
