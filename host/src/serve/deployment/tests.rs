use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ThreadId;

use super::*;
use crate::data::{self, RowForm};
use crate::domain::{ColumnSpec, DataType, Signature, Tensor};
use crate::model::{Model, ModelError};
use crate::registry::{Predictor, PredictorParts};
use crate::serve::ServeLimits;
use crate::serve::rows::BodyFormat;

/// A feature that no row may have.
pub(crate) const REFUSED: f32 = -1.0;

/// Says always 0, and remembers who asked.
#[derive(Debug)]
pub(crate) struct Zeros {
    features: usize,
    scores: usize,
    asked_by: Mutex<Vec<ThreadId>>,
    /// Rows of each call.
    pub(crate) rows: Mutex<Vec<usize>>,
    /// Rows from which on cores share them.
    pub(crate) shared_from: AtomicUsize,
    /// Whether those who do not wait are refused.
    is_busy: AtomicBool,
    /// Whether a row may take any time, and does until after the deadline.
    varies: AtomicBool,
}

impl Model for Zeros {
    fn description(&self) -> String {
        "zeros".to_owned()
    }

    fn feature_count(&self) -> usize {
        self.features
    }

    fn score_count(&self) -> usize {
        self.scores
    }

    fn predicts_values(&self) -> bool {
        true
    }

    fn byte_len(&self) -> usize {
        0
    }

    fn shares_cores(&self, rows: usize) -> bool {
        rows >= self.shared_from.load(Ordering::Relaxed)
    }

    fn cost_varies(&self) -> bool {
        self.varies.load(Ordering::Relaxed)
    }

    fn predict_until(
        &self,
        batch: &Batch,
        deadline: Option<std::time::Instant>,
    ) -> Result<Batch, ModelError> {
        if self.cost_varies() && deadline.is_some() { Err(ModelError::Late) } else { self.predict(batch) }
    }

    fn predict_at_once(&self, batch: &Batch) -> Result<Batch, ModelError> {
        if self.is_busy.load(Ordering::Relaxed) { Err(ModelError::Busy) } else { self.predict(batch) }
    }

    fn score(&self, features: &[f32]) -> Result<Vec<f32>, ModelError> {
        self.asked_by.lock().unwrap().push(std::thread::current().id());
        self.rows.lock().unwrap().push(features.len() / self.features);
        if features.contains(&REFUSED) {
            return Err(ModelError::NoChoice);
        }
        Ok(vec![0.0; features.len() / self.features * self.scores])
    }
}

impl Deployment {
    /// The same as a version of a model.
    pub(crate) fn named(self, model: &str, number: i64) -> Self {
        Self { version: Some((model.parse().unwrap(), number)), ..self }
    }

    /// The same as another bundle.
    pub(crate) fn of_bundle(self, bundle: Digest) -> Self {
        Self { bundle, ..self }
    }
}

pub(crate) fn call() -> Call {
    Call {
        queue: Arc::new(Queue::new(crate::serve::QueueLimits::default())),
        cache: None,
        deadline: None,
        speaker: None,
    }
}

impl Deployment {
    /// What computes.
    pub(in crate::serve) fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }
}

pub(crate) fn deployment(features: usize, scores: usize) -> (Arc<Zeros>, Deployment) {
    deployment_with(features, scores, None)
}

pub(crate) fn deployment_with(
    features: usize,
    scores: usize,
    window: Option<Arc<WindowCapture>>,
) -> (Arc<Zeros>, Deployment) {
    let (asked_by, rows, shared_from) = (Mutex::default(), Mutex::default(), AtomicUsize::new(usize::MAX));
    let (is_busy, varies) = (AtomicBool::new(false), AtomicBool::new(false));
    let model = Arc::new(Zeros { features, scores, asked_by, rows, shared_from, is_busy, varies });
    let input = ColumnSpec {
        name: "features".to_owned(),
        dtype: DataType::Fp32,
        shape: vec![features],
        nullable: true,
        element_names: Vec::new(),
    };
    let signature =
        Signature { inputs: vec![input.clone()], features: vec![input], outputs: vec![model.scores()] };
    let parts = PredictorParts { preprocess: Vec::new(), model: model.clone(), postprocess: Vec::new() };
    let config = DeploymentConfig {
        version: None,
        bundle: Digest::of(b""),
        row_time: None,
        platform: "test".to_owned(),
        is_of_bundle: true,
        work: Work::Bundle(Predictor::new(parts, signature)),
        window,
        rows_max: 100_000,
        example: None,
    };
    (model, Deployment::new("e", config).unwrap())
}

async fn answer(deployment: &Deployment, body: RequestBody, call: Call) -> Result<Answer<Vec<u8>>, ApiError> {
    BodyFormat::Json.answer(deployment, body, call, &BodyReader::new(ServeLimits::default())).await
}

fn rows(count: usize, features: usize) -> RequestBody {
    let row = format!("{{\"features\":[{}]}}", vec!["0"; features].join(","));
    format!("[{}]", vec![row; count].join(",")).into_bytes().into()
}

#[tokio::test]
async fn refuses_rows_whose_answer_would_be_too_large_before_computing_it() {
    let (model, deployment) = deployment(1, 65_536);
    let refused = answer(&deployment, rows(65, 1), call()).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::AnswerTooLarge);
    assert_eq!(
        refused.message(),
        "the answer would be too large: expected at most 64 rows, as the model has 65536 scores for each, found 65"
    );
    assert!(model.asked_by.lock().unwrap().is_empty());
    assert!(answer(&deployment, rows(64, 1), call()).await.is_ok());
}

#[tokio::test]
async fn only_small_requests_are_answered_on_the_thread_that_read_them() {
    let asked_here = async |count: usize, features: usize, scores: usize| {
        let (model, deployment) = deployment(features, scores);
        // From these it knows what a row takes, of which the first alone says little.
        for _ in 0..50 {
            answer(&deployment, rows(1, features), call()).await.unwrap();
        }
        model.asked_by.lock().unwrap().clear();
        answer(&deployment, rows(count, features), call()).await.unwrap();
        let asked_by = model.asked_by.lock().unwrap();
        asked_by.as_slice() == [std::thread::current().id()]
    };
    assert!(asked_here(1, 784, 10).await);
    assert!(asked_here(64, 20, 10).await);
    assert!(!asked_here(65, 20, 10).await, "many rows");
    assert!(!asked_here(10, 20_000, 1).await, "a long body");
    assert!(!asked_here(10, 20, 10_000).await, "a long answer");
    let (model, deployment) = deployment(20, 10);
    answer(&deployment, rows(2, 20), call()).await.unwrap();
    assert_ne!(
        model.asked_by.lock().unwrap()[0],
        std::thread::current().id(),
        "nobody knows how long it takes"
    );
}

/// Writes truth values, `elements` of them in so many dimensions; tells whether that was begun, and whether on this thread and with
/// half of the memory of answers taken.
async fn written(
    elements: usize,
    dimensions: usize,
    bodies: &BodyReader,
) -> (Result<Share, ApiError>, Option<(bool, bool)>) {
    let mut shape = vec![1; dimensions];
    shape[1] = elements;
    let outputs = Tensor::new("o", DataType::Bool, shape, vec![1; elements]).unwrap();
    let outputs = Batch::new(vec![outputs]).unwrap();
    let given = Given { outputs, parts: Vec::new(), is_cached: None };
    let (told, seen) = std::sync::mpsc::channel();
    let (here, of_bodies) = (std::thread::current().id(), bodies.clone());
    let encode = move |given: &Given, ()| {
        told.send((std::thread::current().id() == here, of_bodies.is_scarce())).unwrap();
        let text = data::encode_rows(&given.outputs, RowForm::List).unwrap();
        assert!(text.len() <= data::rows_len_max(&given.outputs));
        Ok(text)
    };
    let writing = Writing { len_max: |outputs, ()| data::rows_len_max(outputs), encode };
    let room = writing.write(given, (), bodies).await.map(|(_, _, room)| room);
    (room, seen.try_recv().ok())
}

#[tokio::test]
async fn long_answers_hold_up_no_thread_that_reads_whatever_the_model_says() {
    let bodies = BodyReader::new(ServeLimits { bodies_max_bytes: 10 << 20, ..ServeLimits::default() });
    let (here, elsewhere) = (Some((true, false)), Some((false, false)));
    assert_eq!(written(10, 2, &bodies).await.1, here);
    assert_eq!(written(10_000, 2, &bodies).await.1, here);
    assert_eq!(written(100, Tensor::DIMENSIONS_MAX, &bodies).await.1, here);
    assert_eq!(written(200 << 10, 2, &bodies).await.1, elsewhere, "many elements");
    assert_eq!(written(10_000, Tensor::DIMENSIONS_MAX, &bodies).await.1, elsewhere, "many lists");
}

#[tokio::test]
async fn memory_is_taken_for_an_answer_before_it_is_written() {
    let bodies = BodyReader::new(ServeLimits { bodies_max_bytes: 10 << 20, ..ServeLimits::default() });
    let (room, seen) = written(1 << 20, 2, &bodies).await;
    assert_eq!(seen, Some((false, true)));
    let (refused, seen) = written(1 << 20, 2, &bodies).await;
    assert_eq!((refused.unwrap_err().code(), seen), (ErrorCode::Overloaded, None));
    drop(room);
    assert_eq!(written(1 << 20, 2, &bodies).await.1, Some((false, true)));
    let (refused, seen) = written(4 << 20, Tensor::DIMENSIONS_MAX, &bodies).await;
    assert_eq!((refused.unwrap_err().code(), seen), (ErrorCode::AnswerTooLarge, None));
}

#[tokio::test]
async fn rows_that_cores_share_hold_up_no_thread_that_reads() {
    let (model, deployment) = deployment(20, 10);
    model.shared_from.store(2, Ordering::Relaxed);
    answer(&deployment, rows(2, 20), call()).await.unwrap();
    assert_eq!(deployment.engine.row_nanos(), 0, "they tell nothing of what one core takes");
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    assert!(deployment.engine.row_nanos() > 0);
    deployment.engine.set_row_nanos(1_000);
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    answer(&deployment, rows(2, 20), call()).await.unwrap();
    let asked_by = model.asked_by.lock().unwrap();
    let here = std::thread::current().id();
    assert_eq!(
        asked_by.iter().map(|thread| *thread == here).collect::<Vec<_>>(),
        [false, false, true, false]
    );
}

#[tokio::test]
async fn a_model_that_is_busy_holds_up_no_thread_that_reads() {
    let (model, deployment) = deployment(20, 10);
    deployment.engine.set_row_nanos(1_000);
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    deployment.engine.set_row_nanos(1_000);
    model.is_busy.store(true, Ordering::Relaxed);
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    model.is_busy.store(false, Ordering::Relaxed);
    deployment.engine.set_row_nanos(1_000);
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    let here = std::thread::current().id();
    let is_here: Vec<_> = model.asked_by.lock().unwrap().iter().map(|asked| *asked == here).collect();
    assert_eq!(is_here, [true, false, true]);
    assert_eq!(deployment.statistics().record("m", "1").inference_stats.success.count, 3);
}

#[tokio::test]
async fn rows_that_may_take_any_time_hold_up_nobody_and_end_at_the_deadline() {
    let (model, deployment) = deployment(20, 10);
    model.varies.store(true, Ordering::Relaxed);
    let call = call();
    deployment.batch_by(Some(BatchPolicy::Rows { max: 8, delay_us: 0 }), &call.queue);
    assert!(deployment.is_batching_by(None), "who is beside it would be late, too");
    for _ in 0..2 {
        answer(&deployment, rows(1, 20), call.clone()).await.unwrap();
        deployment.engine.set_row_nanos(1_000);
    }
    let here = std::thread::current().id();
    assert!(model.asked_by.lock().unwrap().iter().all(|asked| *asked != here));
    let soon = Some(tokio::time::Instant::now() + Duration::from_secs(60));
    let late = answer(&deployment, rows(1, 20), Call { deadline: soon, ..call }).await.unwrap_err();
    assert_eq!((late.status().as_u16(), late.code()), (504, ErrorCode::DeadlineExceeded));
}

#[tokio::test]
async fn whose_client_goes_away_is_counted_as_what_ended_it() {
    let (_, deployment) = deployment(2, 1);
    let call = call();
    let all: Vec<_> = std::iter::from_fn(|| call.queue.free_turn()).collect();
    for allowed in [None, Some(Duration::from_millis(50))] {
        let deadline = allowed.map(|allowed| tokio::time::Instant::now() + allowed);
        let call = Call { deadline, ..call.clone() };
        let body = RequestBody::from(br#"{"features": [1, 2]}"#.to_vec());
        let mut waiting = Box::pin(answer(&deployment, body, call));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::time::sleep(Duration::from_millis(60)).await;
        drop(waiting);
    }
    drop(all);
    let body = RequestBody::from(br#"{"features": [1, 2]}"#.to_vec());
    answer(&deployment, body, call).await.unwrap();
    let statistics = deployment.statistics().record("m", "1").inference_stats;
    assert_eq!((statistics.fail.count, statistics.success.count), (2, 1));
    for code in ["cancelled", "deadline_exceeded"] {
        assert_eq!(deployment.metrics().errors(code), 1, "{code}");
    }
}

#[tokio::test]
async fn kept_answers_are_no_inferences_in_the_statistics() {
    let (model, deployment) = deployment(2, 1);
    let call = Call { cache: Some(Arc::new(AnswerCache::new(1 << 20))), ..call() };
    for _ in 0..10 {
        answer(&deployment, rows(1, 2), call.clone()).await.unwrap();
    }
    assert_eq!(*model.rows.lock().unwrap(), [1]);
    let statistics = deployment.statistics().record("m", "1");
    assert_eq!((statistics.inference_count, statistics.execution_count), (1, 1));
    let sums = statistics.inference_stats;
    assert_eq!((sums.success.count, sums.queue.count), (10, 10));
    let computed = [sums.compute_input, sums.compute_infer, sums.compute_output, sums.cache_miss];
    assert_eq!(computed.map(|sum| sum.count), [1; 4]);
    assert_eq!(sums.cache_hit.count, 9);
}

#[tokio::test]
async fn rows_that_a_part_does_not_take_are_no_mistake_of_whoever_asked() {
    let (_, deployment) = deployment(2, 1);
    let inputs = Batch::new(vec![crate::domain::Tensor::from_f32("other", vec![1, 2], &[1.0, 2.0]).unwrap()]);
    let error = deployment.answer_rows(inputs.unwrap(), call()).await.unwrap_err();
    assert_eq!((error.status(), error.code()), (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Internal));
    assert!(error.message().contains("was given what it does not take: column `"), "{}", error.message());
}

#[tokio::test]
async fn no_more_threads_compute_than_there_are_cores() {
    let (model, deployment) = deployment(20, 10);
    let places = Arc::clone(&deployment.engine.places);
    let cores = std::thread::available_parallelism().unwrap().get();
    assert_eq!(places.available_permits(), cores);
    let taken = places.acquire_many(cores as u32).await.unwrap();
    let soon = tokio::time::Instant::now() + Duration::from_millis(20);
    let late = answer(&deployment, rows(65, 20), Call { deadline: Some(soon), ..call() }).await.unwrap_err();
    assert_eq!(late.code(), ErrorCode::DeadlineExceeded);
    assert!(model.rows.lock().unwrap().is_empty(), "it was not begun");
    deployment.engine.set_row_nanos(1_000);
    assert!(answer(&deployment, rows(1, 20), call()).await.is_ok(), "what is quick needs no place");
    let waiting = async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(taken);
    };
    let (answered, ()) = tokio::join!(answer(&deployment, rows(65, 20), call()), waiting);
    assert!(answered.unwrap().times.queue >= Duration::from_millis(20), "that is waiting, too");
    assert_eq!(places.available_permits(), cores);
}

#[tokio::test]
async fn a_row_of_which_nobody_knows_what_it_takes_holds_up_no_connection() {
    let (model, deployment) = deployment(20, 10);
    for _ in 0..2 {
        answer(&deployment, rows(1, 20), call()).await.unwrap();
        deployment.engine.set_row_nanos(1_000);
    }
    let is_here: Vec<_> =
        model.asked_by.lock().unwrap().iter().map(|asked| *asked == std::thread::current().id()).collect();
    assert_eq!(is_here, [false, true]);
}

#[tokio::test]
async fn what_should_be_quick_and_is_not_leaves_the_thread_to_others() {
    let (model, deployment) = deployment(20, 10);
    let here = &deployment.engine.places_here;
    let taken = here.try_acquire_many(here.available_permits() as u32).unwrap();
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    deployment.engine.set_row_nanos(1_000);
    drop(taken);
    answer(&deployment, rows(1, 20), call()).await.unwrap();
    let is_here: Vec<_> =
        model.asked_by.lock().unwrap().iter().map(|asked| *asked == std::thread::current().id()).collect();
    assert_eq!(is_here, [false, true]);
}

#[tokio::test]
async fn what_a_version_has_seen_is_written_when_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(folder.path()).unwrap();
    let endpoint: Name = "e".parse().unwrap();
    let rows_in_window = || {
        let window = crate::data::read_window(&store, &endpoint, None, 100).unwrap();
        window.map_or(0, |window| window.rows.rows())
    };
    let writer = crate::data::WindowWriter::open(&store, &endpoint, Digest::of(b""), 100).unwrap();
    let window = Arc::new(WindowCapture::new(writer, Arc::default()));
    let (_, deployment) = deployment_with(2, 1, Some(window));
    answer(&deployment, rows(3, 2), call()).await.unwrap();
    assert_eq!(rows_in_window(), 0);
    drop(deployment);
    let written = async {
        while rows_in_window() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), written).await.expect("they are lost");
}
