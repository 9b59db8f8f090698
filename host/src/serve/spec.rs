//! What endpoints should be: a file, or what the command line says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use axum::http::HeaderName;
use serde::Deserialize;

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

/// Replaced versions that stay loaded where nobody says how many.
pub const KEPT_DEFAULT: usize = 1;

/// What an endpoint should be.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSpec {
    /// Its name.
    pub name: Name,
    /// Who should answer, with their parts of the requests.
    pub routes: Vec<RouteSpec>,
    /// Header by which requests stay with one of several.
    pub sticky: Option<HeaderName>,
    /// How many of the versions that were replaced stay loaded.
    pub kept: usize,
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
#[serde(deny_unknown_fields)]
struct FileFields {
    version: u64,
    endpoints: BTreeMap<String, EndpointFields>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EndpointFields {
    model: Option<String>,
    traffic: Option<Vec<RouteFields>>,
    sticky: Option<String>,
    keep: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteFields {
    model: String,
    weight: u32,
}

impl EndpointSpec {
    /// An endpoint that one model answers.
    pub fn of_model(name: Name, model: ModelReference) -> Self {
        Self { name, routes: vec![RouteSpec { model, weight: 1 }], sticky: None, kept: KEPT_DEFAULT }
    }

    /// Reads an endpoint file; bundle folders that it names start from `folder`.
    pub fn parse_file(text: &str, folder: &Path) -> Result<Vec<Self>, EndpointFileError> {
        let refuse = |message: String| Err(EndpointFileError(message));
        if text.len() > ENDPOINT_FILE_MAX_BYTES {
            return refuse(format!("has {} bytes: expected at most {ENDPOINT_FILE_MAX_BYTES}", text.len()));
        }
        let fields: FileFields = serde_saphyr::from_str_with_options(text, options())
            .map_err(|error| EndpointFileError(error.to_string().replace('\n', " ")))?;
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
        fields.endpoints.into_iter().map(endpoint).collect()
    }
}

impl EndpointFields {
    fn spec(self, name: Name, folder: &Path) -> Result<EndpointSpec, String> {
        let routes = match (self.model, self.traffic) {
            (Some(model), None) => vec![RouteFields { model, weight: 1 }],
            (None, Some(traffic)) => traffic,
            _ => return Err("expected either `model` or `traffic`".to_owned()),
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
        let names: BTreeSet<&str> = routes.iter().map(|route| route.model.as_str()).collect();
        if names.len() < routes.len() {
            return Err("`traffic` has a model twice".to_owned());
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
            let model = ModelReference::parse_in(folder, &route.model).map_err(|error| error.to_string())?;
            Ok::<_, String>(RouteSpec { model, weight: route.weight })
        };
        let routes = routes.into_iter().map(route).collect::<Result<_, _>>()?;
        Ok(EndpointSpec { name, routes, sticky: sticky.transpose()?, kept })
    }
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 100_000,
            max_nodes: 50_000,
            max_depth: 16,
            max_aliases: 0,
            max_anchors: 0,
            max_documents: 1,
            max_merge_keys: 0,
            max_total_scalar_bytes: ENDPOINT_FILE_MAX_BYTES,
        },
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
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
";
        let specs = parse(text).unwrap();
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["digits", "fraud"]);
        assert_eq!((specs[0].kept, specs[1].kept), (0, KEPT_DEFAULT));
        let weights: Vec<u32> = specs[1].routes.iter().map(|route| route.weight).collect();
        assert_eq!(weights, [90, 10]);
        assert_eq!(specs[1].sticky.as_ref().unwrap().as_str(), "x-user-id");
    }

    #[test]
    fn what_is_wrong_is_told() {
        let endpoint = |fields: &str| parse(&format!("version: 1\nendpoints:\n  e: {fields}\n")).unwrap_err();
        assert_eq!(endpoint("{}"), "endpoint `e`: expected either `model` or `traffic`");
        assert_eq!(
            endpoint("{ model: m, traffic: [] }"),
            "endpoint `e`: expected either `model` or `traffic`"
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
            endpoint("{ traffic: [{ model: m, weight: 2000000 }] }"),
            "endpoint `e`: the weight of `m` is 2000000: expected at most 1000000"
        );
        assert_eq!(
            endpoint("{ model: m, sticky: 'a b' }"),
            "endpoint `e`: `sticky` is `a b`: expected the name of a header"
        );
        assert_eq!(endpoint("{ model: m, keep: 17 }"), "endpoint `e`: `keep` is 17: expected at most 16");
        assert!(endpoint("{ model: '../m' }").contains("names no model"));
        assert!(endpoint("{ modell: m }").contains("modell"));
        assert!(parse("version: 2\nendpoints: {}").unwrap_err().contains("`version` is 2"));
        assert!(
            parse("version: 1\nendpoints: { ../e: { model: m } }").unwrap_err().contains("is not a name")
        );
        assert!(parse("version: 1\nendpoints: { e: { model: m }, e: { model: n } }").is_err());
        assert!(parse("a: &a [x]\nb: *a").is_err());
        assert!(parse("").is_err() && parse("[").is_err());
    }
}
