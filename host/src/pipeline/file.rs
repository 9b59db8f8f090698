use std::time::Duration;

use super::check;
use super::condition::Condition;
use super::node::{Entry, Node, Value};
use super::problem::{PipelineError, Place, Problems, listed, quoted, suggestion};
use super::quantity;
use super::tree::{Tree, TreeKind};
use super::trigger::{Schedule, TRIGGERS_MAX, Trigger};
use super::uses::{self, StepKind, USES, Uses};
use crate::domain::Name;

/// The version of the format of pipeline files that this host reads.
pub const FORMAT_VERSION: u64 = 1;
/// Longest name of a step, a parameter, an axis of a matrix or an output.
pub const NAME_MAX_BYTES: usize = 64;
/// Most retries of a step.
pub const RETRIES_MAX: u64 = 100;
/// Most cores that a step may ask for.
pub const CORES_MAX: u64 = 4_096;

const PIPELINE_KEYS: [&str; 5] = ["version", "name", "params", "triggers", "steps"];
const STEP_KEYS: [&str; 10] =
    ["uses", "needs", "with", "matrix", "when", "retry", "timeout", "cache", "outputs", "resources"];

/// What a pipeline file says, checked as far as that is possible without values for its parameters.
#[derive(Debug, Clone)]
pub struct PipelineSpec {
    /// The file's name, for messages.
    pub(super) file: String,
    /// The pipeline's name.
    pub name: Name,
    /// What starts the pipeline besides a person.
    pub triggers: Vec<Trigger>,
    pub(super) parameters: Vec<ParameterSpec>,
    /// In the order of the file.
    pub(super) steps: Vec<StepSpec>,
}

/// How often and after which wait a failed step is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retry {
    /// Runs after the first one.
    pub count: u32,
    /// The wait before the first retry.
    pub backoff: Duration,
}

/// What a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    /// Cores; as many as there are if not given.
    pub cores: Option<u32>,
    /// Memory in bytes; unbounded if not given.
    pub memory_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct ParameterSpec {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) default: Tree,
}

/// A step as the file has it, before its matrix is expanded.
#[derive(Debug, Clone)]
pub(super) struct StepSpec {
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) uses: &'static Uses,
    /// Names in `needs`, with their places.
    pub(super) needs: Vec<(String, Place)>,
    pub(super) with: Tree,
    pub(super) matrix: Vec<Axis>,
    pub(super) when: Option<(Condition, Place)>,
    pub(super) retry: Retry,
    pub(super) timeout: Option<Duration>,
    pub(super) is_cached: bool,
    /// The outputs that a command must write; none if the file does not say.
    pub(super) outputs: Option<Vec<String>>,
    pub(super) resources: Resources,
}

/// One axis of a matrix: a list, or a template that stands for one.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    pub(super) name: String,
    pub(super) values: Tree,
}

/// Stands for a kind of step that is not known, which is told once: nothing more can be said of the step's fields.
static UNKNOWN: Uses = Uses {
    kind: StepKind::Command,
    name: "",
    doc: "",
    fields: &[],
    outputs: &[],
    is_open: true,
    is_cached: false,
    only_with: None,
};

impl PipelineSpec {
    /// Reads and checks the text of a pipeline file; `file` is its name, for messages.
    pub fn parse(file: &str, text: &str) -> Result<Self, PipelineError> {
        let mut problems = Problems::default();
        let Some(node) = Node::parse(text, &mut problems) else {
            return Err(problems.into_error(file));
        };
        let spec = read_pipeline(file, &node, &mut problems);
        if let Some(spec) = &spec {
            check::check(spec, &mut problems);
        }
        match spec {
            Some(spec) => problems.or(file, spec),
            None => Err(problems.into_error(file)),
        }
    }

    /// The names of the parameters, in the order of the file.
    pub fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parameters.iter().map(|parameter| parameter.name.as_str())
    }
}

fn read_pipeline(file: &str, node: &Node, problems: &mut Problems) -> Option<PipelineSpec> {
    let entries = record(node, "the pipeline", &PIPELINE_KEYS, problems)?;
    let field = |name: &str| entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node);
    let mut missing = |name: &str, expected: &str| {
        problems.add(node.place, format!("the pipeline lacks `{name}`: expected {expected}"));
    };
    if field("version").is_none() {
        missing("version", &format!("`version: {FORMAT_VERSION}`"));
    }
    if field("name").is_none() {
        missing("name", "a name");
    }
    if field("steps").is_none() {
        missing("steps", "a mapping from names to steps");
    }
    if let Some(version) = field("version") {
        read_version(version, problems);
    }
    let name = field("name").and_then(|node| name(node, "`name`", problems));
    let parameters = field("params").map(|node| read_parameters(node, problems)).unwrap_or_default();
    let triggers = field("triggers").map(|node| read_triggers(node, problems)).unwrap_or_default();
    let steps = field("steps").map(|node| read_steps(node, problems)).unwrap_or_default();
    // A name that lacks is told; the steps are checked all the same.
    let name = name.or_else(|| "unnamed".parse().ok())?;
    Some(PipelineSpec { file: file.to_owned(), name, triggers, parameters, steps })
}

fn read_version(node: &Node, problems: &mut Problems) {
    let known = matches!(&node.value, Value::Number(number) if number.as_u64() == Some(FORMAT_VERSION));
    if !known {
        let found = node.described();
        problems.add(node.place, format!("`version`: expected `{FORMAT_VERSION}`, found {found}"));
    }
}

fn read_parameters(node: &Node, problems: &mut Problems) -> Vec<ParameterSpec> {
    let mut parameters = Vec::new();
    for entry in map(node, "`params`", problems).unwrap_or_default() {
        is_name(&entry.key, entry.key_place, "a parameter", problems);
        if matches!(entry.node.value, Value::Null) {
            let name = quoted(&entry.key);
            problems
                .add(entry.key_place, format!("parameter {name} lacks a default, which gives it its type"));
        }
        let default = Tree::read(&entry.node, problems);
        parameters.push(ParameterSpec { name: entry.key.clone(), place: entry.key_place, default });
    }
    parameters
}

fn read_triggers(node: &Node, problems: &mut Problems) -> Vec<Trigger> {
    let expected = "`schedule`, `dataset` or `drift`";
    let mut triggers = Vec::new();
    let elements = list(node, "`triggers`", problems).unwrap_or_default();
    if let Some(element) = elements.get(TRIGGERS_MAX) {
        problems.add(element.place, format!("too many triggers: expected at most {TRIGGERS_MAX}"));
        return triggers;
    }
    for element in elements {
        let Some(entries) = record(element, "a trigger", &["schedule", "dataset", "drift"], problems) else {
            continue;
        };
        let [entry] = entries else {
            let message = format!("a trigger: expected exactly one of {expected}, found {}", entries.len());
            problems.add(element.place, message);
            continue;
        };
        let trigger = match entry.key.as_str() {
            "schedule" => text(&entry.node, "`schedule`", problems).and_then(|cron| {
                let schedule = cron.parse::<Schedule>();
                let schedule = schedule.map_err(|message| problems.add(entry.node.place, message));
                schedule.ok().map(Trigger::Schedule)
            }),
            "dataset" => name(&entry.node, "`dataset`", problems).map(Trigger::Dataset),
            "drift" => name(&entry.node, "`drift`", problems).map(Trigger::Drift),
            _ => None,
        };
        triggers.extend(trigger);
    }
    triggers
}

fn read_steps(node: &Node, problems: &mut Problems) -> Vec<StepSpec> {
    let Some(entries) = map(node, "`steps`", problems) else { return Vec::new() };
    if entries.is_empty() {
        problems.add(node.place, "`steps`: expected at least one step");
    }
    let mut steps = Vec::with_capacity(entries.len());
    for entry in entries {
        is_name(&entry.key, entry.key_place, "a step", problems);
        steps.extend(read_step(entry, problems));
    }
    steps
}

fn read_step(entry: &Entry, problems: &mut Problems) -> Option<StepSpec> {
    let owner = format!("step {}", quoted(&entry.key));
    let entries = record(&entry.node, &owner, &STEP_KEYS, problems)?;
    let field = |name: &str| entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node);
    let of = |name: &str| format!("`{name}` of {owner}");
    let uses = read_uses(field("uses"), entry, &owner, problems);
    let with = match field("with") {
        Some(node) if !matches!(node.value, Value::Null) => Tree::read(node, problems),
        _ => Tree { place: entry.key_place, is_filled: false, kind: TreeKind::Map(Vec::new()) },
    };
    if !std::ptr::eq(uses, &raw const UNKNOWN) {
        uses::check(uses, &entry.key, &with, problems);
    }
    let needs = field("needs").map(|node| names(node, &of("needs"), problems)).unwrap_or_default();
    let matrix = field("matrix").map(|node| read_matrix(node, &of("matrix"), problems)).unwrap_or_default();
    let when = field("when").and_then(|node| read_when(node, &of("when"), problems));
    let retry = field("retry").map(|node| read_retry(node, &of("retry"), problems)).unwrap_or_default();
    let timeout = field("timeout").and_then(|node| read_duration(node, &of("timeout"), problems));
    let timeout = timeout.filter(|timeout| {
        if timeout.is_zero() {
            problems.add(entry.key_place, format!("{}: expected more than zero", of("timeout")));
        }
        !timeout.is_zero()
    });
    let is_cached = field("cache").and_then(|node| boolean(node, &of("cache"), problems));
    let outputs = field("outputs").map(|node| read_outputs(node, uses, &of("outputs"), problems));
    let resources =
        field("resources").map(|node| read_resources(node, &of("resources"), problems)).unwrap_or_default();
    Some(StepSpec {
        name: entry.key.clone(),
        place: entry.key_place,
        uses,
        needs,
        with,
        matrix,
        when,
        retry,
        timeout,
        is_cached: is_cached.unwrap_or(uses.is_cached),
        outputs,
        resources,
    })
}

fn read_uses(node: Option<&Node>, entry: &Entry, owner: &str, problems: &mut Problems) -> &'static Uses {
    let known = || USES.iter().map(|uses| uses.name);
    let Some(node) = node else {
        problems.add(entry.key_place, format!("{owner} lacks `uses`: expected one of {}", listed(known())));
        return &UNKNOWN;
    };
    let Some(name) = text(node, &format!("`uses` of {owner}"), problems) else { return &UNKNOWN };
    uses::find(name).unwrap_or_else(|| {
        let near = suggestion(name, known());
        let near = if near.is_empty() { format!(": expected one of {}", listed(known())) } else { near };
        problems.add(node.place, format!("{owner} uses {}, which is unknown{near}", quoted(name)));
        &UNKNOWN
    })
}

fn read_matrix(node: &Node, owner: &str, problems: &mut Problems) -> Vec<Axis> {
    let mut axes = Vec::new();
    let entries = map(node, owner, problems).unwrap_or_default();
    if entries.is_empty() && matches!(node.value, Value::Map(_)) {
        problems.add(node.place, format!("{owner}: expected at least one list of values"));
    }
    for entry in entries {
        is_name(&entry.key, entry.key_place, "an axis of a matrix", problems);
        let values = Tree::read(&entry.node, problems);
        axes.push(Axis { name: entry.key.clone(), values });
    }
    axes
}

fn read_when(node: &Node, owner: &str, problems: &mut Problems) -> Option<(Condition, Place)> {
    let condition = match &node.value {
        Value::Boolean(value) => Ok(Condition::constant(*value)),
        Value::Text(text) => Condition::parse(text),
        _ => Err(format!("expected a condition, found {}", node.described())),
    };
    match condition {
        Ok(condition) => Some((condition, node.place)),
        Err(message) => {
            problems.add(node.place, format!("{owner}: {message}"));
            None
        }
    }
}

fn read_retry(node: &Node, owner: &str, problems: &mut Problems) -> Retry {
    let count_of = |node: &Node, owner: &str, problems: &mut Problems| {
        integer(node, 1, RETRIES_MAX, owner, problems).and_then(|count| u32::try_from(count).ok())
    };
    if matches!(node.value, Value::Number(_)) {
        let count = count_of(node, owner, problems).unwrap_or_default();
        return Retry { count, backoff: Duration::ZERO };
    }
    let entries = record(node, owner, &["count", "backoff"], problems).unwrap_or_default();
    let mut retry = Retry { count: 1, backoff: Duration::ZERO };
    for entry in entries {
        let owner = format!("`{}` in {owner}", entry.key);
        match entry.key.as_str() {
            "count" => retry.count = count_of(&entry.node, &owner, problems).unwrap_or_default(),
            "backoff" => {
                retry.backoff = read_duration(&entry.node, &owner, problems).unwrap_or_default();
            }
            _ => {}
        }
    }
    retry
}

fn read_duration(node: &Node, owner: &str, problems: &mut Problems) -> Option<Duration> {
    quantity(node, quantity::duration, "a duration, such as `30m`", owner, problems)
}

/// A text that `read` makes something of.
fn quantity<T>(
    node: &Node,
    read: fn(&str) -> Result<T, String>,
    expected: &str,
    owner: &str,
    problems: &mut Problems,
) -> Option<T> {
    if !matches!(node.value, Value::Text(_)) {
        return wrong(node, owner, expected, problems);
    }
    let text = text(node, owner, problems)?;
    read(text).map_err(|message| problems.add(node.place, format!("{owner}: {message}"))).ok()
}

fn read_outputs(node: &Node, uses: &Uses, owner: &str, problems: &mut Problems) -> Vec<String> {
    if !uses.is_open {
        let message =
            format!("{owner} is not allowed: only `command` names its outputs, `{}` has its own", uses.name);
        problems.add(node.place, message);
        return Vec::new();
    }
    let names = names(node, owner, problems);
    for (name, place) in &names {
        is_name(name, *place, "an output", problems);
    }
    names.into_iter().map(|(name, _)| name).collect()
}

fn read_resources(node: &Node, owner: &str, problems: &mut Problems) -> Resources {
    let mut resources = Resources::default();
    for entry in record(node, owner, &["cores", "memory"], problems).unwrap_or_default() {
        let owner = format!("`{}` in {owner}", entry.key);
        match entry.key.as_str() {
            "cores" => {
                let cores = integer(&entry.node, 1, CORES_MAX, &owner, problems);
                resources.cores = cores.and_then(|cores| u32::try_from(cores).ok());
            }
            "memory" => {
                let expected = "a size, such as `2GiB`";
                resources.memory_bytes = quantity(&entry.node, quantity::size, expected, &owner, problems);
            }
            _ => {}
        }
    }
    resources
}

/// The entries of a mapping that may have these keys; others are told.
fn record<'node>(
    node: &'node Node,
    owner: &str,
    keys: &[&str],
    problems: &mut Problems,
) -> Option<&'node [Entry]> {
    let entries = map(node, owner, problems)?;
    for entry in entries.iter().filter(|entry| !keys.contains(&entry.key.as_str())) {
        let near = suggestion(&entry.key, keys.iter().copied());
        let near =
            if near.is_empty() { format!(": expected {}", listed(keys.iter().copied())) } else { near };
        problems.add(entry.key_place, format!("unknown key {} of {owner}{near}", quoted(&entry.key)));
    }
    Some(entries)
}

fn map<'node>(node: &'node Node, owner: &str, problems: &mut Problems) -> Option<&'node [Entry]> {
    match &node.value {
        Value::Map(entries) => Some(entries),
        _ => wrong(node, owner, "a mapping", problems),
    }
}

fn list<'node>(node: &'node Node, owner: &str, problems: &mut Problems) -> Option<&'node [Node]> {
    match &node.value {
        Value::List(list) => Some(list),
        _ => wrong(node, owner, "a list", problems),
    }
}

fn text<'node>(node: &'node Node, owner: &str, problems: &mut Problems) -> Option<&'node str> {
    match &node.value {
        Value::Text(text) if text.contains("${{") => {
            problems.add(node.place, format!("{owner}: a template is not allowed here"));
            None
        }
        Value::Text(text) => Some(text),
        _ => wrong(node, owner, "a string", problems),
    }
}

fn boolean(node: &Node, owner: &str, problems: &mut Problems) -> Option<bool> {
    match &node.value {
        Value::Boolean(value) => Some(*value),
        _ => wrong(node, owner, "`true` or `false`", problems),
    }
}

fn integer(node: &Node, least: u64, most: u64, owner: &str, problems: &mut Problems) -> Option<u64> {
    match &node.value {
        Value::Number(number) => number.as_u64().filter(|number| (least..=most).contains(number)),
        _ => None,
    }
    .or_else(|| wrong(node, owner, &format!("an integer from {least} to {most}"), problems))
}

fn name(node: &Node, owner: &str, problems: &mut Problems) -> Option<Name> {
    let text = text(node, owner, problems)?;
    text.parse::<Name>().map_err(|error| problems.add(node.place, format!("{owner}: {error}"))).ok()
}

/// A text or a list of texts, each with its place.
fn names(node: &Node, owner: &str, problems: &mut Problems) -> Vec<(String, Place)> {
    let elements = match &node.value {
        Value::List(list) => list.as_slice(),
        _ => std::slice::from_ref(node),
    };
    let mut found: Vec<(String, Place)> = Vec::with_capacity(elements.len());
    let mut seen = std::collections::HashSet::new();
    for element in elements {
        let Some(name) = text(element, owner, problems) else { continue };
        if seen.insert(name) {
            found.push((name.to_owned(), element.place));
        } else {
            problems.add(element.place, format!("{owner} names {} twice", quoted(name)));
        }
    }
    found
}

fn wrong<T>(node: &Node, owner: &str, expected: &str, problems: &mut Problems) -> Option<T> {
    problems.add(node.place, format!("{owner}: expected {expected}, found {}", node.described()));
    None
}

/// Whether `name` can be the name of a thing of the file; tells if not.
fn is_name(name: &str, place: Place, what: &str, problems: &mut Problems) {
    let allowed = |character: char| character.is_ascii_alphanumeric() || character == '-' || character == '_';
    if name.is_empty() || name.len() > NAME_MAX_BYTES || !name.chars().all(allowed) {
        let name = quoted(name);
        problems.add(
            place,
            format!("{name} cannot name {what}: expected 1 to {NAME_MAX_BYTES} letters, digits, `-` and `_`"),
        );
    }
}
