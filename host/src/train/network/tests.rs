use std::cell::Cell;
use std::ops::ControlFlow;

use super::*;
use crate::model;
use crate::train::Checkpoints;

fn parameters(kind: NetworkKind, set: &[(&str, &str)]) -> NetworkParameters {
    let mut parameters = NetworkParameters::new(kind);
    for (name, value) in set {
        parameters.set(name, value).unwrap();
    }
    parameters
}

/// Rows and labels.
type Rows = (Vec<f32>, Vec<f32>);

/// What is on and off in two numbers, which no linear function tells.
fn exclusive_or() -> Rows {
    let corners = [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]];
    let rows = corners.iter().cycle().take(64).copied();
    let labels = rows.clone().map(|[left, right]| f32::from(left != right));
    (rows.clone().flatten().collect(), labels.collect())
}

/// Images of 8 × 8 with a bar that stands, lies or slants, somewhere.
fn bars(count: usize) -> Rows {
    let mut random = Random::new(5, Purpose::Order, 0);
    let mut features = Vec::new();
    let labels: Vec<f32> = (0..count).map(|row| (row % 3) as f32).collect();
    for label in &labels {
        let at = (random.unit() * 8.0) as usize;
        for row in 0..8 {
            for column in 0..8 {
                let on = match *label as usize {
                    0 => column == at,
                    1 => row == at,
                    _ => (row + column) % 8 == at,
                };
                features.push(f32::from(on) + 0.1 * random.unit());
            }
        }
    }
    (features, labels)
}

/// What a training does around its end.
#[derive(Default)]
struct Around {
    start_from: Option<Vec<u8>>,
    checkpoint_after: Option<u32>,
    break_after: Option<u32>,
}

struct Outcome {
    trained: Trained,
    reports: Vec<RoundReport>,
    checkpoint: Option<Vec<u8>>,
}

impl Outcome {
    fn last(&self, set: RowSet, name: &str) -> f64 {
        let metrics = &self.reports.last().unwrap().metrics;
        metrics.iter().find(|metric| metric.set == set && metric.name == name).unwrap().value
    }
}

fn train_on(
    parameters: &NetworkParameters,
    rows: &Rows,
    test: &Rows,
    around: Around,
) -> Result<Outcome, TrainError> {
    let matrix = |rows: &Rows| rows.0.len() / rows.1.len();
    let train = Matrix::new(&rows.0, matrix(rows), &rows.1)?;
    let test = Matrix::new(&test.0, matrix(test), &test.1)?;
    let (mut reports, mut checkpoint) = (Vec::new(), None);
    let told = Cell::new(0);
    let mut progress = |report: RoundReport| {
        let ends = around.break_after == Some(report.round);
        told.set(report.round);
        reports.push(report);
        if ends { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut keep = |round, bytes| {
        assert_eq!(told.get(), round, "who goes on from the checkpoint tells only what comes after it");
        if around.checkpoint_after == Some(round) {
            checkpoint = Some(bytes);
        }
        Ok(())
    };
    let mut session = TrainSession {
        checkpoints: Some(Checkpoints { every: 1, keep: &mut keep }),
        start_from: around.start_from,
        ..TrainSession::new(&mut progress)
    };
    let data = TrainData { train, test, files: &|| Err(TrainError::Stopped) };
    let trained = NetworkTrainer { parameters: parameters.clone() }.train(&data, &mut session)?;
    Ok(Outcome { trained, reports, checkpoint })
}

fn train(parameters: &NetworkParameters, rows: &Rows, around: Around) -> Outcome {
    train_on(parameters, rows, rows, around).unwrap()
}

#[test]
fn learns_what_no_linear_function_tells() {
    for optimizer in ["adam", "adamw", "sgd"] {
        let rate = if optimizer == "sgd" { "0.1" } else { "0.02" };
        let set = [
            ("epochs", "60"),
            ("batch_size", "16"),
            ("hidden", "16"),
            ("optimizer", optimizer),
            ("lr", rate),
        ];
        let outcome = train(&parameters(NetworkKind::Mlp, &set), &exclusive_or(), Around::default());
        assert_eq!(outcome.reports.len(), 60);
        assert_eq!(outcome.trained.task, Some(Task::Binary));
        assert_eq!(outcome.last(RowSet::Test, "accuracy"), 1.0, "{optimizer}");
        assert!(outcome.last(RowSet::Test, "loss") < 0.1, "{optimizer}");
        let model = model::load(&outcome.trained.model).unwrap();
        let scores = model.score(&[0.0, 1.0, 1.0, 1.0]).unwrap();
        assert!(scores[0] > 0.9 && scores[1] < 0.1, "{optimizer}: {scores:?}");
    }
}

fn small_cnn(more: &[(&str, &str)]) -> NetworkParameters {
    let set = [
        ("epochs", "6"),
        ("batch_size", "20"),
        ("channels", "6"),
        ("kernel", "3"),
        ("dense", "16"),
        ("lr", "0.01"),
    ];
    let mut parameters = parameters(NetworkKind::Cnn, &set);
    for (name, value) in more {
        parameters.set(name, value).unwrap();
    }
    parameters
}

#[test]
fn a_convolution_learns_bars_wherever_they_are() {
    let outcome = train_on(&small_cnn(&[]), &bars(600), &bars(300), Around::default()).unwrap();
    assert_eq!(outcome.trained.task, Some(Task::Classes));
    assert!(outcome.last(RowSet::Test, "accuracy") > 0.95, "{:?}", outcome.reports.last());
    assert_eq!(outcome.trained.parameters["image"], "8x8x1");
    assert_eq!(outcome.trained.parameters["task"], "classes");
}

#[test]
fn learns_values_far_from_zero() {
    let features: Vec<f32> = (0..400).map(|row| row as f32 / 200.0 - 1.0).collect();
    let labels = features.iter().map(|value| 50_000.0 + 10_000.0 * value * value).collect();
    let set = [("epochs", "60"), ("hidden", "32,16"), ("lr", "0.01"), ("activation", "tanh")];
    let outcome = train(&parameters(NetworkKind::Mlp, &set), &(features, labels), Around::default());
    assert_eq!(outcome.trained.task, Some(Task::Regression));
    assert!(outcome.last(RowSet::Test, "rmse") < 500.0, "{:?}", outcome.reports.last());
    let score = model::load(&outcome.trained.model).unwrap().score(&[0.0]).unwrap();
    assert!((score[0] - 50_000.0).abs() < 1_500.0, "{score:?}");
}

#[test]
fn a_missing_feature_is_what_the_parameter_says() {
    let (mut features, labels) = exclusive_or();
    // Missing stands for 1.
    features.iter_mut().filter(|feature| **feature == 1.0).for_each(|feature| *feature = f32::NAN);
    let set = [("epochs", "60"), ("batch_size", "16"), ("hidden", "16"), ("lr", "0.02"), ("missing", "1")];
    let outcome = train(&parameters(NetworkKind::Mlp, &set), &(features, labels), Around::default());
    assert_eq!(outcome.last(RowSet::Test, "accuracy"), 1.0);
    let model = model::load(&outcome.trained.model).unwrap();
    assert_eq!(model.score(&[f32::NAN, 0.0]).unwrap(), model.score(&[1.0, 0.0]).unwrap());
}

#[test]
fn the_same_training_is_the_same_model_for_any_number_of_threads() {
    let rows = bars(100);
    let model = |threads, seed| {
        let set = [("epochs", "2"), ("dropout", "0.2"), ("threads", threads), ("seed", seed)];
        train(&small_cnn(&set), &rows, Around::default()).trained.model
    };
    let first = model("1", "7");
    assert_eq!(model("1", "7"), first);
    assert_eq!(model("3", "7"), first);
    assert_ne!(model("1", "8"), first);
}

#[test]
fn a_training_that_goes_on_ends_as_one_that_never_stopped() {
    let rows = bars(90);
    for optimizer in ["adam", "adamw", "sgd"] {
        let set = [
            ("optimizer", optimizer),
            ("dropout", "0.1"),
            ("warmup", "2"),
            ("weight_decay", "0.01"),
            ("early_stopping_rounds", "5"),
        ];
        let parameters = small_cnn(&set);
        let whole = train(&parameters, &rows, Around { checkpoint_after: Some(2), ..Around::default() });
        let stopped = train(
            &parameters,
            &rows,
            Around { break_after: Some(2), checkpoint_after: Some(2), ..Around::default() },
        );
        assert_eq!(stopped.checkpoint, whole.checkpoint);
        assert_eq!(stopped.reports.len(), 2);
        let resumed =
            train(&parameters, &rows, Around { start_from: stopped.checkpoint, ..Around::default() });
        assert_eq!(resumed.reports, whole.reports[2..], "{optimizer}");
        assert_eq!(resumed.trained.model, whole.trained.model, "{optimizer}");
    }
}

#[test]
fn a_model_is_a_beginning_for_the_same_network_only() {
    let rows = bars(90);
    let first = train(&small_cnn(&[]), &rows, Around::default());
    let start = || Around { start_from: Some(first.trained.model.clone()), ..Around::default() };
    let again = train(&small_cnn(&[("epochs", "1")]), &rows, start());
    assert!(again.last(RowSet::Train, "loss") < first.reports[0].metrics[0].value / 2.0);
    let refusal = |parameters: &NetworkParameters, around| {
        train_on(parameters, &rows, &rows, around).err().unwrap().to_string()
    };
    assert_eq!(
        refusal(&small_cnn(&[("dense", "8")]), start()),
        "cannot start from this file: its network is 8x8x1, convolution 3x3 6, dense 16, dense 3: expected 8x8x1, \
         convolution 3x3 6, dense 8, dense 3"
    );
    if cfg!(not(feature = "cuda")) {
        let error = refusal(&small_cnn(&[("device", "cuda")]), Around::default());
        let expected =
            "the network cannot be trained: the GPU cannot be used: this program was built without CUDA";
        assert!(error.starts_with(expected), "{error}");
    }
    let checkpoint = train(&small_cnn(&[]), &rows, Around { checkpoint_after: Some(1), ..Around::default() });
    let around = Around { start_from: checkpoint.checkpoint.clone(), ..Around::default() };
    let error = refusal(&small_cnn(&[("optimizer", "sgd")]), around);
    assert!(error.contains("another `optimizer`"), "{error}");
    let bytes = checkpoint.checkpoint.unwrap();
    for length in (0..bytes.len()).step_by(97) {
        let around = Around { start_from: Some(bytes[..length].to_vec()), ..Around::default() };
        assert!(refusal(&small_cnn(&[]), around).starts_with("cannot start from this file: "), "{length}");
    }
}

/// For a machine with a GPU: `cargo test --release --features cuda --package host --lib`.
#[cfg(feature = "cuda")]
#[test]
fn a_gpu_learns_as_the_processor_does() {
    let rows = bars(600);
    let learn = |device, around| train(&small_cnn(&[("device", device)]), &rows, around);
    let losses = |outcome: &Outcome| -> Vec<f64> {
        let loss =
            |report: &RoundReport| report.metrics.iter().find(|metric| metric.name == "loss").unwrap().value;
        outcome.reports.iter().map(loss).collect()
    };
    let (own, gpu) = (learn("cpu", Around::default()), learn("cuda", Around::default()));
    let (expected, found) = (losses(&own), losses(&gpu));
    // What is rounded otherwise grows from epoch to epoch.
    let is_close = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.05 * a.abs() + 0.001;
    assert!(
        expected.len() == found.len() && expected.iter().zip(&found).all(is_close),
        "{expected:?} {found:?}"
    );
    assert!(gpu.last(RowSet::Test, "accuracy") > 0.9);
    let half = learn("cuda", Around { checkpoint_after: Some(2), break_after: Some(2), ..Around::default() });
    let resumed = learn("cuda", Around { start_from: half.checkpoint, ..Around::default() });
    let found = losses(&resumed);
    assert!(expected[2..].iter().zip(&found).all(is_close), "{expected:?} {found:?}");
}

#[test]
fn stops_early_and_keeps_the_best_epoch() {
    // Labels that cannot be learned from the features: the loss on other rows grows.
    let mut random = Random::new(9, Purpose::Order, 0);
    let mut noise = |count: usize| -> Rows {
        let features = (0..count * 4).map(|_| random.unit()).collect();
        (features, (0..count).map(|_| f32::from(random.unit() < 0.5)).collect())
    };
    let (rows, test) = (noise(60), noise(60));
    let set = [
        ("epochs", "200"),
        ("early_stopping_rounds", "3"),
        ("lr", "0.02"),
        ("schedule", "constant"),
        ("hidden", "64"),
    ];
    let outcome = train_on(&parameters(NetworkKind::Mlp, &set), &rows, &test, Around::default()).unwrap();
    let losses: Vec<f64> = outcome.reports.iter().map(|report| report.metrics[2].value).collect();
    let best = losses.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(losses.len() < 200);
    assert_eq!(losses[losses.len() - 4], best, "{losses:?}");
    let scores = model::load(&outcome.trained.model).unwrap().score(&test.0).unwrap();
    assert_eq!(evaluation::classification(&scores, 1, &test.1).unwrap().log_loss, best);
}

#[test]
fn mistakes_are_told() {
    let refusal = |set: &[(&str, &str)], rows: &Rows| {
        train_on(&parameters(NetworkKind::Mlp, set), rows, rows, Around::default()).err().unwrap().to_string()
    };
    let rows = exclusive_or();
    let values = (rows.0.clone(), rows.1.iter().map(|label| label + 0.5).collect());
    assert!(refusal(&[("task", "classes")], &values).contains("expected a whole number"));
    assert!(refusal(&[("task", "binary")], &(rows.0.clone(), vec![1.0; 64])).contains("every row"));
    let large = (rows.0.iter().map(|value| value * 1e30).collect(), rows.1.clone());
    let error = refusal(&[("lr", "1000"), ("optimizer", "sgd")], &large);
    assert!(error.contains("diverged in epoch"), "{error}");
    let square = train_on(&small_cnn(&[]), &rows, &rows, Around::default()).err().unwrap().to_string();
    assert!(square.contains("2 features are no square image"), "{square}");
}
