use std::cell::Cell;
use std::ops::ControlFlow;

use super::*;
use crate::train::Checkpoints;
use crate::train::evaluation::classification;

#[test]
fn unknown_names_are_refused_with_a_suggestion() {
    let refusal = |name: &str| XgboostParameters::default().set(name, "1").unwrap_err().to_string();
    assert_eq!(refusal("max_dept"), "unknown parameter `max_dept`: did you mean `max_depth`?");
    assert_eq!(refusal("learning-rate"), "unknown parameter `learning-rate`: did you mean `learning_rate`?");
    assert_eq!(refusal("booster"), "unknown parameter `booster`");
    assert_eq!(refusal(""), "unknown parameter ``");
}

#[test]
fn values_are_checked_and_aliases_are_one_parameter() {
    let mut parameters = XgboostParameters::default();
    parameters.set("learning_rate", "0.1").unwrap();
    parameters.set("lambda", "2").unwrap();
    parameters.set("reg_lambda", "3").unwrap();
    assert_eq!(parameters.eta, 0.1);
    assert_eq!(parameters.other.get("reg_lambda").map(String::as_str), Some("3"));
    assert_eq!(
        parameters.set("eta", "2").unwrap_err().to_string(),
        "parameter `eta` is `2`: expected a number from 0 to 1"
    );
    let refusal = |name, value| XgboostParameters::default().set(name, value).unwrap_err().to_string();
    assert_eq!(
        refusal("max_depth", "-1"),
        "parameter `max_depth` is `-1`: expected a whole number that is not negative"
    );
    assert_eq!(
        refusal("objective", "rank:ndcg"),
        "parameter `objective` is `rank:ndcg`: expected one of `multi:softprob`, `binary:logistic`, \
         `reg:squarederror`"
    );
    assert_eq!(refusal("rounds", "0"), "parameter `rounds` is `0`: expected a number from 1 to 100000");
}

/// The library that `cargo xtask setup` installs.
fn library() -> Library {
    let explicit = std::env::var_os("HOST_XGBOOST_LIBRARY").map(Into::into);
    Library::load(&LibrarySearch::from_environment(explicit)).unwrap()
}

/// Trains from nothing, without checkpoints.
fn boost(
    library: &Library,
    train: Matrix<'_>,
    test: Option<Matrix<'_>>,
    parameters: &XgboostParameters,
    progress: &mut dyn FnMut(RoundReport) -> ControlFlow<()>,
) -> Result<Boosted, TrainError> {
    let mut session = TrainSession::new(progress);
    super::boost(library, train, test, parameters, &mut session)
}

/// Rows in three clusters with some features missing, made without a random generator.
fn rows(count: usize) -> (Vec<f32>, Vec<f32>) {
    let mut features = Vec::new();
    let mut labels = Vec::new();
    for row in 0..count {
        let class = row % 3;
        labels.push(class as f32);
        for feature in 0..4 {
            let noise = ((row * 7 + feature * 13) % 11) as f32 / 4.0;
            let missing = (row + feature) % 9 == 0;
            features.push(if missing { f32::NAN } else { noise + (class * (feature + 1)) as f32 });
        }
    }
    (features, labels)
}

#[test]
fn a_trained_model_loads_and_scores_as_libxgboost_does() {
    let library = library();
    let (features, labels) = rows(300);
    let matrix = Matrix::new(&features, 4, &labels).unwrap();
    let mut reports = Vec::new();
    let mut parameters = XgboostParameters { nthread: 1, rounds: 5, ..Default::default() };
    parameters.set("objective", "multi:softprob").unwrap();
    parameters.set("eval_metric", "merror").unwrap();
    let run = |reports: &mut Vec<RoundReport>| {
        boost(&library, matrix, Some(matrix), &parameters, &mut |report| {
            reports.push(report);
            ControlFlow::Continue(())
        })
        .unwrap()
    };
    let file = run(&mut reports);
    assert_eq!(
        reports.iter().map(|report| (report.round, report.of)).collect::<Vec<_>>(),
        [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]
    );
    let last = &reports[4].metrics;
    assert_eq!(
        last.iter().map(|metric| (metric.set, metric.name.as_str())).collect::<Vec<_>>(),
        [(RowSet::Train, "merror"), (RowSet::Test, "merror")]
    );
    assert_eq!(file, run(&mut Vec::new()), "the same rows, parameters and threads give the same bytes");

    let scores = model::load(&file.model).unwrap().score(&features).unwrap();
    let accuracy = classification(&scores, 3, &labels).unwrap().accuracy;
    assert!((1.0 - accuracy - last[0].value).abs() < 1e-6, "{accuracy} and {:?}", last[0]);

    let mut matrices = DMatrix::from_rows(&library, &features, 4, 1).unwrap();
    matrices.set_label(&labels).unwrap();
    let classes = parameters.to_text(Some(3));
    let text = classes.iter().map(|(name, value)| (*name, value.as_str()));
    let mut booster = Booster::new(&library, text, vec![matrices], None).unwrap();
    (0..5).for_each(|iteration| booster.update(iteration).unwrap());
    let rows = DMatrix::from_rows(&library, &features, 4, 1).unwrap();
    let expected = booster.predict(&rows).unwrap();
    assert_eq!(
        scores.iter().map(|score| score.to_bits()).collect::<Vec<_>>(),
        expected.iter().map(|score| score.to_bits()).collect::<Vec<_>>()
    );
}

#[test]
fn every_objective_trains_and_loads() {
    let library = library();
    let (features, labels) = rows(90);
    let binary: Vec<f32> = labels.iter().map(|label| f32::from(*label > 0.0)).collect();
    for (objective, labels, columns) in [
        (Objective::Softprob, &labels, 3),
        (Objective::Logistic, &binary, 1),
        (Objective::SquaredError, &labels, 1),
    ] {
        let parameters = XgboostParameters { objective, rounds: 2, nthread: 1, ..Default::default() };
        let matrix = Matrix::new(&features, 4, labels).unwrap();
        let file = boost(&library, matrix, None, &parameters, &mut |_| ControlFlow::Continue(())).unwrap();
        let model = model::load(&file.model).unwrap();
        assert_eq!((model.feature_count(), model.score_count()), (4, columns));
    }
}

#[test]
fn progress_can_end_training() {
    let library = library();
    let (features, labels) = rows(90);
    let matrix = Matrix::new(&features, 4, &labels).unwrap();
    let parameters = XgboostParameters { rounds: 100, nthread: 1, ..Default::default() };
    let file = boost(&library, matrix, None, &parameters, &mut |report| match report.round {
        3 => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    assert_eq!(model::load(&file.unwrap().model).unwrap().description(), "XGBoost reg:squarederror, 3 trees");
}

#[test]
fn what_cannot_be_trained_is_told() {
    let library = library();
    let (features, labels) = rows(9);
    let matrix = Matrix::new(&features, 4, &labels).unwrap();
    let refusal = |test, parameters: &XgboostParameters| {
        let result = boost(&library, matrix, test, parameters, &mut |_| ControlFlow::Continue(()));
        result.unwrap_err().to_string()
    };
    let logistic = XgboostParameters { objective: Objective::Logistic, ..Default::default() };
    assert_eq!(refusal(None, &logistic), "label of row 2 is 2: expected a whole number from 0 to 1");
    let classes = XgboostParameters { num_class: Some(3), ..Default::default() };
    assert_eq!(
        refusal(None, &classes),
        "parameter `num_class` is `3`: expected none for the objective `reg:squarederror`"
    );
    let softprob = XgboostParameters { objective: Objective::Softprob, ..Default::default() };
    let far = Matrix::new(&features[..4], 4, &[1e30]).unwrap();
    assert_eq!(
        refusal(Some(far), &softprob),
        "parameter `num_class` is `4294967295`: expected a number from 2 to 65536"
    );
    let narrow = Matrix::new(&features[1..2], 1, &labels[..1]).unwrap();
    assert_eq!(
        refusal(Some(narrow), &XgboostParameters::default()),
        "test rows have 1 features: expected 4, as in the training rows"
    );
    let mut odd = XgboostParameters { rounds: 1, ..Default::default() };
    odd.set("subsample", "2").unwrap();
    let error = refusal(None, &odd);
    assert!(
        error.starts_with("libxgboost: ") && error.contains("subsample") && !error.contains('\n'),
        "{error}"
    );
}

/// Rows that two classes share, so that more rounds are soon of no use.
fn noisy_rows(count: usize) -> (Vec<f32>, Vec<f32>) {
    let mix = |row: usize| row.wrapping_mul(2_654_435_761) >> 7;
    let features = (0..count * 4).map(|place| (mix(place) % 97) as f32).collect();
    let labels = (0..count).map(|row| f32::from(mix(row * 4) % 97 > 40 && mix(row * 31) % 3 > 0)).collect();
    (features, labels)
}

fn noisy_parameters(more: &[(&str, &str)]) -> XgboostParameters {
    let mut parameters = XgboostParameters { rounds: 60, nthread: 1, ..Default::default() };
    for (name, value) in [("objective", "binary:logistic"), ("max_depth", "3")].iter().chain(more) {
        parameters.set(name, value).unwrap();
    }
    parameters
}

#[test]
fn training_stops_where_more_rounds_are_of_no_use_and_keeps_the_best() {
    let library = library();
    let (features, labels) = noisy_rows(400);
    let train = Matrix::new(&features[..800], 4, &labels[..200]).unwrap();
    let test = Matrix::new(&features[800..], 4, &labels[200..]).unwrap();
    let mut losses = Vec::new();
    let parameters = noisy_parameters(&[("early_stopping_rounds", "5")]);
    let stopped = boost(&library, train, Some(test), &parameters, &mut |report| {
        losses.push(report.metrics[1].value);
        ControlFlow::Continue(())
    });
    let stopped = stopped.unwrap();
    let least = losses.iter().copied().fold(f64::INFINITY, f64::min);
    let best = losses.iter().position(|loss| *loss == least).unwrap();
    assert_eq!(losses.len(), best + 6, "five rounds after the best: {losses:?}");
    assert_eq!(stopped.best_iteration, Some(best as u32));
    let trees = format!("XGBoost binary:logistic, {} trees", best + 1);
    assert_eq!(model::load(&stopped.model).unwrap().description(), trees);
    // What the model says of the test rows is what it said of them then.
    let loss = classification(&stopped.test_scores, 1, &labels[200..]).unwrap().log_loss;
    assert!((loss - least).abs() < 1e-5, "{loss} and {least}");
}

#[test]
fn a_training_goes_on_from_a_checkpoint_as_if_it_had_never_ended() {
    let library = library();
    let (features, labels) = noisy_rows(400);
    let train = Matrix::new(&features[..800], 4, &labels[..200]).unwrap();
    let test = Matrix::new(&features[800..], 4, &labels[200..]).unwrap();
    for more in [&[][..], &[("early_stopping_rounds", "5")], &[("eval_metric", "auc"), ("max_bin", "16")]] {
        let mut parameters = noisy_parameters(more);
        parameters.rounds = 12;
        let mut kept = Vec::new();
        let told = Cell::new(0);
        let mut keep = |round, bytes| {
            assert_eq!(told.get(), round, "who goes on from the checkpoint tells only what comes after it");
            kept.push((round, bytes));
            Ok(())
        };
        let mut go_on = |report: RoundReport| {
            told.set(report.round);
            ControlFlow::Continue(())
        };
        let mut session = TrainSession {
            checkpoints: Some(Checkpoints { every: 4, keep: &mut keep }),
            ..TrainSession::new(&mut go_on)
        };
        let whole = super::boost(&library, train, Some(test), &parameters, &mut session).unwrap();
        let (round, checkpoint) = kept.into_iter().next().unwrap();
        assert_eq!(round, 4);
        let mut rounds = Vec::new();
        let mut progress = |report: RoundReport| {
            rounds.push(report.round);
            ControlFlow::Continue(())
        };
        let mut session = TrainSession { start_from: Some(checkpoint), ..TrainSession::new(&mut progress) };
        let resumed = super::boost(&library, train, Some(test), &parameters, &mut session).unwrap();
        assert_eq!(rounds.first(), Some(&5));
        assert!(resumed == whole, "{more:?}");
    }
}

#[test]
fn a_model_that_does_not_fit_is_not_continued() {
    let library = library();
    let (features, labels) = rows(90);
    let matrix = Matrix::new(&features, 4, &labels).unwrap();
    let parameters = XgboostParameters { rounds: 3, nthread: 1, ..Default::default() };
    let file = boost(&library, matrix, None, &parameters, &mut |_| ControlFlow::Continue(())).unwrap().model;
    let refusal = |bytes: &[u8], matrix, parameters: &XgboostParameters| {
        let mut go_on = |_| ControlFlow::Continue(());
        let mut session = TrainSession { start_from: Some(bytes.to_vec()), ..TrainSession::new(&mut go_on) };
        super::boost(&library, matrix, None, parameters, &mut session).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(&file, matrix, &parameters),
        "cannot start from this file: its model has 3 rounds already, expected fewer than the 3 in all"
    );
    let narrow = Matrix::new(&features[..180], 2, &labels).unwrap();
    assert_eq!(
        refusal(&file, narrow, &XgboostParameters { rounds: 4, ..parameters.clone() }),
        "cannot start from this file: its model takes 4 features, expected 2"
    );
    let mut softprob = parameters.clone();
    softprob.set("objective", "multi:softprob").unwrap();
    assert_eq!(
        refusal(&file, matrix, &softprob),
        "cannot start from this file: its model is `XGBoost reg:squarederror, 3 trees`, expected the objective \
         `multi:softprob`"
    );
    assert!(refusal(b"{}", matrix, &parameters).starts_with("the trained model cannot be loaded: "));
}

#[test]
fn values_of_a_known_type_are_checked_before_anything_runs() {
    let refusal = |name, value| XgboostParameters::default().set(name, value).unwrap_err().to_string();
    assert_eq!(refusal("subsample", "half"), "parameter `subsample` is `half`: expected a number");
    assert_eq!(refusal("lambda", "nan"), "parameter `lambda` is `nan`: expected a number");
    assert_eq!(
        refusal("max_bin", "2.5"),
        "parameter `max_bin` is `2.5`: expected a whole number that is not negative"
    );
    assert_eq!(refusal("refresh_leaf", "2"), "parameter `refresh_leaf` is `2`: expected `true` or `false`");
    assert_eq!(
        refusal("tree_method", "gpu_hist"),
        "parameter `tree_method` is `gpu_hist`: expected one of `auto`, `exact`, `approx`, `hist`"
    );
    assert_eq!(
        refusal("early_stopping_rounds", "0"),
        "parameter `early_stopping_rounds` is `0`: expected a number from 1 to 100000"
    );
}
