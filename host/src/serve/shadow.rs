use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::graph::take_columns;
use super::{ApiError, Deployment, Route, Routing, ShadowOutcome};
use crate::domain::{Batch, ColumnSpec, Name, SchemaError, Tensor, do_elements_fit, elements_in_order, mix};
use crate::registry::ModelReference;
use crate::task::shared_threads;

/// Requests that a shadow may have to do; what comes beyond that it is not given.
const WORK_MAX: usize = 64;

/// KiB of rows, answers and its own scores that these may hold. One alone may be larger.
const WORK_KIB_MAX: u32 = 64 * 1024;

/// How long after it was told that a shadow cannot answer that is not told again, though it has answered meanwhile.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// Longest reason that is told of a shadow that cannot answer.
const REASON_MAX_CHARS: usize = 500;

/// A version that is given the requests of an endpoint too, after they are answered, and whose answers nobody gets: they are only
/// compared.
#[derive(Clone)]
pub struct Shadow {
    deployment: Arc<Deployment>,
    model: ModelReference,
    percent: u32,
    places: Arc<Semaphore>,
    /// A permit for each KiB.
    memory: Arc<Semaphore>,
    /// Requests so far, from which chance is drawn.
    requests: Arc<AtomicU64>,
    /// What had been compared with others before those who answer now.
    before: BTreeMap<&'static str, u64>,
    failing: Arc<Failing>,
}

/// What is told of answers that a shadow cannot give.
struct Failing {
    endpoint: Name,
    model: ModelReference,
    state: Mutex<FailingState>,
}

#[derive(Default)]
struct FailingState {
    /// Why there was no answer to the last request; none where there was one.
    reason: Option<String>,
    /// Whether that is told, and when something was told last.
    is_told: bool,
    told: Option<Instant>,
}

/// What a version takes that cannot be a shadow, and the one that answers does not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ShadowError {
    /// A column, or one of that type and shape.
    #[error(transparent)]
    Column(#[from] SchemaError),
    /// A column whose elements have these names.
    #[error("the elements of column `{0}` have other names")]
    Elements(String),
}

impl Shadow {
    /// Gives `percent` of a hundred requests of `endpoint` to `deployment`, which is what `model` meant.
    pub fn new(endpoint: Name, deployment: Arc<Deployment>, model: ModelReference, percent: u32) -> Self {
        let places = Arc::new(Semaphore::new(WORK_MAX));
        let memory = Arc::new(Semaphore::new(WORK_KIB_MAX as usize));
        let before = deployment.metrics().shadow_counts();
        let failing = Arc::new(Failing { endpoint, model: model.clone(), state: Mutex::default() });
        Self { deployment, model, percent, places, memory, requests: Arc::default(), before, failing }
    }

    /// Refuses a version that takes other columns than `answering`, whose requests it should be given. It may take fewer.
    pub(super) fn check_columns(&self, answering: &Deployment) -> Result<(), ShadowError> {
        check_columns(&self.deployment.signature().inputs, &answering.signature().inputs)
    }

    /// The same, which goes on counting where its answers are compared with those of the routing before this one: where the same
    /// deployments answer in the same parts.
    pub(super) fn going_on(mut self, routes: &[Route], before: Option<&Routing>) -> Self {
        let same = |(route, old): (&Route, &Route)| {
            Arc::ptr_eq(&route.deployment, &old.deployment) && route.weight == old.weight
        };
        let answers_the_same = |before: &&Routing| {
            before.routes().len() == routes.len() && routes.iter().zip(before.routes()).all(same)
        };
        let before = before.filter(answers_the_same).into_iter().flat_map(Routing::shadows);
        let is_this = |shadow: &&Self| Arc::ptr_eq(&shadow.deployment, &self.deployment);
        if let Some(known) = before.into_iter().find(is_this) {
            self.before.clone_from(&known.before);
            self.failing = Arc::clone(&known.failing);
        }
        self
    }

    /// How many of its answers were how, compared with those of who answers now.
    pub(super) fn counts(&self) -> BTreeMap<&'static str, u64> {
        let mut counts = self.deployment.metrics().shadow_counts();
        for (outcome, count) in &mut counts {
            *count = count.saturating_sub(self.before.get(outcome).copied().unwrap_or(0));
        }
        counts
    }

    /// Why it could not answer the last request that it has computed; none where it could.
    pub(super) fn failure(&self) -> Option<String> {
        self.failing.state().reason.clone()
    }

    /// What it follows.
    pub fn model(&self) -> &ModelReference {
        &self.model
    }

    /// Who computes.
    pub fn deployment(&self) -> &Arc<Deployment> {
        &self.deployment
    }

    /// How many of a hundred requests it is given.
    pub fn percent(&self) -> u32 {
        self.percent
    }

    /// Computes the rows of a request that was answered with `outputs` by `answering`, later, and compares. What it has answered
    /// itself, which would tell nothing, it is not given.
    pub(super) fn mirror(&self, answering: &Deployment, inputs: &Batch, outputs: &Batch) {
        if answering.bundle() == self.deployment.bundle() {
            return;
        }
        if mix(self.requests.fetch_add(1, Ordering::Relaxed)) % 100 >= u64::from(self.percent) {
            return;
        }
        let rows = inputs.rows();
        let bytes = inputs.byte_len() + outputs.byte_len();
        let kib = bytes.saturating_add(self.deployment.score_bytes(rows)) / 1024;
        let kib = u32::try_from(kib).unwrap_or(u32::MAX).min(WORK_KIB_MAX);
        let place = Arc::clone(&self.places).try_acquire_owned();
        let memory = Arc::clone(&self.memory).try_acquire_many_owned(kib);
        // A client could not ask it for so much either.
        let is_too_much = self.deployment.check_scores(rows).is_err();
        let (Ok(place), Ok(memory), false) = (place, memory, is_too_much) else {
            self.deployment.metrics().count_shadow(ShadowOutcome::Skipped);
            return;
        };
        let taken = &self.deployment.signature().inputs;
        let Ok(inputs) = take_columns(taken, inputs) else { return };
        let inputs = elements_in_order(inputs, &answering.signature().inputs, taken);
        let (deployment, expected) = (Arc::clone(&self.deployment), outputs.clone());
        let failing = Arc::clone(&self.failing);
        // Nobody waits for it, and whoever has a connection shall not wait either. There are no threads when the server has stopped.
        let Some(threads) = shared_threads() else { return };
        threads.spawn(async move {
            let computed = deployment.compute(inputs).await;
            failing.note(computed.as_ref().err());
            let outcome = match computed {
                Ok(outputs) => compare(&expected, &outputs),
                Err(_) => ShadowOutcome::Failed,
            };
            deployment.metrics().count_shadow(outcome);
            drop((place, memory));
        });
    }
}

impl Failing {
    /// Takes note of an error, or that there was none. It is told once until the shadow answers again, and not as often as it
    /// answers some requests and not others.
    fn note(&self, error: Option<&ApiError>) {
        let mut state = self.state();
        let Some(error) = error else {
            (state.reason, state.is_told) = (None, false);
            return;
        };
        let is_news = !state.is_told && state.told.is_none_or(|told| told.elapsed() >= TOLD_FOR);
        let reason: String = error.message().chars().take(REASON_MAX_CHARS).collect();
        if is_news {
            (state.is_told, state.told) = (true, Some(Instant::now()));
            let Self { endpoint, model, .. } = self;
            tracing::warn!("endpoint `{endpoint}`: shadow `{model}` cannot answer: {reason}");
        }
        state.reason = Some(reason);
    }

    fn state(&self) -> MutexGuard<'_, FailingState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check_columns(taken: &[ColumnSpec], given: &[ColumnSpec]) -> Result<(), ShadowError> {
    for spec in taken {
        let name = spec.name.clone();
        let Some(found) = given.iter().find(|given| given.name == name) else {
            return Err(SchemaError::Missing { name }.into());
        };
        if found.dtype != spec.dtype {
            return Err(SchemaError::DataType { name, expected: spec.dtype, found: found.dtype }.into());
        }
        if found.shape != spec.shape {
            let (expected, found) = (spec.shape.clone(), found.shape.clone());
            return Err(SchemaError::Shape { name, expected, found }.into());
        }
        if !do_elements_fit(found, spec) {
            return Err(ShadowError::Elements(name));
        }
    }
    Ok(())
}

/// How two answers to the same rows compare.
fn compare(expected: &Batch, found: &Batch) -> ShadowOutcome {
    let (expected, found) = (expected.tensors(), found.tensors());
    let alike = |pair: (&Tensor, &Tensor)| {
        let (left, right) = pair;
        (left.name(), left.dtype(), left.shape()) == (right.name(), right.dtype(), right.shape())
    };
    if expected.len() != found.len() || !expected.iter().zip(found).all(alike) {
        return ShadowOutcome::Different(None);
    }
    let pairs = || expected.iter().zip(found).filter(|(left, right)| left.data() != right.data());
    if pairs().next().is_none() {
        return ShadowOutcome::Same;
    }
    let is_float = |tensor: &Tensor| tensor.dtype().is_float();
    // A label beside its probability is what a model decides; scores alone decide nothing.
    let agrees = !expected.iter().all(is_float) && pairs().all(|(left, _)| is_float(left));
    let mut largest: Option<f64> = None;
    for (left, right) in pairs().filter(|(left, _)| is_float(left)) {
        if let (Some(left), Some(right)) = (left.to_f64(), right.to_f64()) {
            let differences = left.iter().zip(&right).map(|(left, right)| (left - right).abs());
            let difference = differences.filter(|difference| difference.is_finite()).fold(0.0, f64::max);
            largest = Some(largest.unwrap_or(0.0).max(difference));
        }
    }
    if agrees { ShadowOutcome::Agrees(largest) } else { ShadowOutcome::Different(largest) }
}

#[cfg(test)]
mod tests {
    use super::super::deployment::tests::{REFUSED, Zeros, deployment};
    use super::super::observe::Kept;
    use super::*;
    use crate::domain::{DataType, Digest};

    fn shadow(features: usize, scores: usize) -> (Arc<Zeros>, Shadow) {
        let (model, deployment) = deployment(features, scores);
        let deployment = Arc::new(deployment);
        (model, Shadow::new("e".parse().unwrap(), deployment, "m@2".parse().unwrap(), 100))
    }

    /// A version of another bundle.
    fn answering() -> Deployment {
        deployment(1, 1).1.of_bundle(Digest::of(b"another"))
    }

    fn rows(name: &str, count: usize) -> Batch {
        Batch::new(vec![Tensor::from_f32(name, vec![count, 1], &vec![0.0; count]).unwrap()]).unwrap()
    }

    #[tokio::test]
    async fn a_shadow_that_cannot_answer_is_told_once_until_it_does() {
        let (kept, subscriber) = Kept::subscriber();
        let _told_here = tracing::subscriber::set_default(subscriber);
        let ((_, shadow), answering) = (shadow(1, 1), answering());
        let answer = async |feature: f32, outcome: &str| {
            let counted = shadow.counts()[outcome];
            let row =
                Batch::new(vec![Tensor::from_f32("features", vec![1, 1], &[feature]).unwrap()]).unwrap();
            shadow.mirror(&answering, &row, &rows("y", 1));
            while shadow.counts()[outcome] == counted {
                tokio::task::yield_now().await;
            }
        };
        answer(REFUSED, "failed").await;
        answer(REFUSED, "failed").await;
        let told = || kept.text().matches("endpoint `e`: shadow `m@2` cannot answer: ").count();
        assert_eq!(told(), 1, "{}", kept.text());
        assert!(shadow.failure().is_some());
        answer(0.0, "different").await;
        assert_eq!(shadow.failure(), None);
        answer(REFUSED, "failed").await;
        assert_eq!(told(), 1, "as often as it answers between: {}", kept.text());
        let long_ago = Instant::now().checked_sub(TOLD_FOR);
        shadow.failing.state().told = long_ago;
        answer(REFUSED, "failed").await;
        assert_eq!(told(), 2, "{}", kept.text());
    }

    #[tokio::test]
    async fn what_its_own_bundle_has_answered_is_not_computed_again() {
        let (model, shadow) = shadow(1, 1);
        shadow.mirror(&shadow.deployment, &rows("features", 1), &rows("y", 1));
        shadow.mirror(&deployment(1, 1).1.named("m", 3), &rows("features", 1), &rows("y", 1));
        assert_eq!(shadow.places.available_permits(), WORK_MAX);
        shadow.mirror(&answering(), &rows("features", 2), &rows("y", 2));
        while shadow.counts().values().sum::<u64>() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*model.rows.lock().unwrap(), [2]);
        assert_eq!(shadow.counts()["different"], 1);
    }

    #[test]
    fn a_shadow_may_take_fewer_columns_and_no_others() {
        let column = |name: &str, dtype, shape: &[usize], elements: &[&str]| ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable: false,
            element_names: elements.iter().map(|&name| name.to_owned()).collect(),
        };
        let given = [column("a", DataType::Fp32, &[], &[]), column("x", DataType::Fp32, &[2], &["p", "q"])];
        let check = |taken| check_columns(&[taken], &given).map_err(|error| error.to_string());
        for elements in [&["p", "q"][..], &["q", "p"], &[]] {
            assert_eq!(check(column("x", DataType::Fp32, &[2], elements)), Ok(()), "{elements:?}");
        }
        let refused = |taken, why: &str| assert_eq!(check(taken), Err(why.to_owned()));
        refused(column("b", DataType::Fp32, &[], &[]), "column `b` is missing");
        refused(column("a", DataType::Int64, &[], &[]), "column `a`: expected INT64, found FP32");
        refused(column("x", DataType::Fp32, &[3], &[]), "column `x`: expected rows of 3, found 2");
        let others = column("x", DataType::Fp32, &[2], &["p", "r"]);
        refused(others, "the elements of column `x` have other names");
    }

    #[tokio::test]
    async fn what_its_own_answers_would_take_is_limited() {
        let (_, shadow) = shadow(1, 65_536);
        let answering = answering();
        let (mirror, skipped) = (
            |count: usize| shadow.mirror(&answering, &rows("features", count), &rows("y", count)),
            || shadow.counts()["skipped"],
        );
        mirror(65);
        assert_eq!(skipped(), 1, "the version itself would refuse so many rows");
        // Each is 16 MiB of scores.
        (0..4).for_each(|_| mirror(64));
        assert_eq!(skipped(), 1);
        mirror(64);
        assert_eq!(skipped(), 2);
    }

    fn answer(name: &str, values: &[f32]) -> Batch {
        let labels = Tensor::from_strings("text", values.iter().map(|_| b"t".as_slice())).unwrap();
        Batch::new(vec![Tensor::from_f32(name, vec![values.len()], values).unwrap(), labels]).unwrap()
    }

    #[test]
    fn answers_are_compared_bit_by_bit_and_by_how_far_they_are_off() {
        let expected = answer("y", &[1.0, f32::NAN, 0.5]);
        assert_eq!(compare(&expected, &expected.clone()), ShadowOutcome::Same);
        let found = answer("y", &[1.0, f32::NAN, 0.25]);
        assert_eq!(compare(&expected, &found), ShadowOutcome::Agrees(Some(0.25)));
        let scores = |values: &[f32]| {
            Batch::new(vec![Tensor::from_f32("y", vec![values.len()], values).unwrap()]).unwrap()
        };
        assert_eq!(compare(&scores(&[1.0]), &scores(&[0.5])), ShadowOutcome::Different(Some(0.5)));
        let mut other = answer("y", &[1.0, f32::NAN, 0.5]).into_tensors();
        other[1] = Tensor::from_strings("text", [b"t", b"t", b"u"].map(|text| text.as_slice())).unwrap();
        assert_eq!(compare(&expected, &Batch::new(other).unwrap()), ShadowOutcome::Different(None));
        assert_eq!(compare(&expected, &answer("z", &[1.0, 1.0, 0.5])), ShadowOutcome::Different(None));
        assert_eq!(compare(&expected, &answer("y", &[1.0])), ShadowOutcome::Different(None));
    }
}
