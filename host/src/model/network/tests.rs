use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::model::load;

/// Numbers without a pattern, from -1 to 1.
fn numbers(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

fn network(layers: Vec<Layer>, output: Output) -> Network {
    let input = Image { height: 7, width: 6, channels: 2 };
    let architecture = Architecture { version: 1, input, missing: 0.5, layers, output };
    let images = architecture.check().unwrap();
    let weights = (1..).zip(architecture.layers.iter().zip(&images)).map(|(seed, (layer, &input))| {
        let [rows, columns] = layer.weight_shape(input);
        [numbers(rows * columns, seed), numbers(columns, seed + 100)]
    });
    Network { weights: weights.collect(), architecture: architecture.clone() }
}

fn classes() -> Network {
    let layers = vec![
        Layer::Convolution { kernel: 3, channels: 4, pool: 2, activation: Activation::Relu },
        Layer::Dense { units: 5, activation: Activation::Tanh },
        Layer::Dense { units: 3, activation: Activation::None },
    ];
    network(layers, Output::Classes)
}

fn dense(units: usize) -> Vec<Layer> {
    vec![Layer::Dense { units, activation: Activation::None }]
}

/// The network by the book, in `f64`.
fn reference(network: &Network, row: &[f32]) -> Vec<f64> {
    let images = network.architecture.check().unwrap();
    let missing = network.architecture.missing;
    let mut values: Vec<f64> =
        row.iter().map(|value| f64::from(if value.is_nan() { missing } else { *value })).collect();
    for ((layer, [weights, bias]), ends) in
        network.architecture.layers.iter().zip(&network.weights).zip(images.windows(2))
    {
        let (input, output) = (ends[0], ends[1]);
        let activate = |value: f64| match layer.activation() {
            Activation::None => value,
            Activation::Relu => value.max(0.0),
            Activation::LeakyRelu => value.max(0.01 * value),
            Activation::Tanh => value.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-value).exp()),
        };
        let (kernel, pool) = match *layer {
            Layer::Convolution { kernel, pool, .. } => (kernel, pool),
            Layer::Dense { units, .. } => {
                let sum = |unit: usize| {
                    let terms = values.iter().enumerate();
                    let terms = terms.map(|(index, value)| value * f64::from(weights[index * units + unit]));
                    activate(f64::from(bias[unit]) + terms.sum::<f64>())
                };
                values = (0..units).map(sum).collect();
                continue;
            }
        };
        let at = |row: usize, column: usize, channel: usize| {
            let mut sum = f64::from(bias[channel]);
            for (y, x, c) in (0..kernel)
                .flat_map(|y| (0..kernel).flat_map(move |x| (0..input.channels).map(move |c| (y, x, c))))
            {
                let weight = weights[((y * kernel + x) * input.channels + c) * output.channels + channel];
                let value = values[((row + y) * input.width + column + x) * input.channels + c];
                sum += value * f64::from(weight);
            }
            sum
        };
        let mut next = Vec::new();
        for index in 0..output.height * output.width * output.channels {
            let (place, channel) = (index / output.channels, index % output.channels);
            let (row, column) = (place / output.width * pool, place % output.width * pool);
            let pooled =
                (0..pool * pool).map(|within| at(row + within / pool, column + within % pool, channel));
            next.push(activate(pooled.fold(f64::NEG_INFINITY, f64::max)));
        }
        values = next;
    }
    match network.architecture.output {
        Output::Classes => {
            let sum: f64 = values.iter().map(|value| value.exp()).sum();
            values.iter().map(|value| value.exp() / sum).collect()
        }
        Output::Binary => values.iter().map(|value| 1.0 / (1.0 + (-value).exp())).collect(),
        Output::Regression { scale, offset } => {
            values.iter().map(|value| value * f64::from(scale) + f64::from(offset)).collect()
        }
    }
}

fn networks() -> Vec<Network> {
    let convolutions = vec![
        Layer::Convolution { kernel: 2, channels: 17, pool: 1, activation: Activation::Sigmoid },
        Layer::Convolution { kernel: 3, channels: 3, pool: 3, activation: Activation::LeakyRelu },
        Layer::Dense { units: 1, activation: Activation::None },
    ];
    let regression = Output::Regression { scale: 30.0, offset: -4.0 };
    vec![classes(), network(convolutions, Output::Binary), network(dense(1), regression)]
}

#[test]
fn scores_are_what_the_definition_says() {
    for network in networks() {
        let model = load(&network.to_bytes().unwrap()).unwrap();
        let mut rows = numbers(20 * 84, 9);
        rows[5] = f32::NAN;
        let scores = model.score(&rows).unwrap();
        assert_eq!(scores.len(), 20 * model.score_count());
        for (row, scores) in rows.chunks(84).zip(scores.chunks(model.score_count())) {
            for (found, expected) in scores.iter().zip(reference(&network, row)) {
                assert!((f64::from(*found) - expected).abs() < 1e-4, "{found} {expected}");
            }
        }
    }
}

#[test]
fn a_row_scores_the_same_bits_in_any_company() {
    for network in networks() {
        let model = NetworkModel::new(&network).unwrap();
        // Enough of them to be shared by cores, and no whole groups.
        let count = SHARED_PRODUCTS_MIN.div_ceil(model.products()) + 3;
        assert!(model.shares_cores(count) && !model.shares_cores(1) && count > 2 * model.part_rows());
        let rows = numbers(count * 84, 11);
        let together = model.score(&rows).unwrap();
        for size in [1, 2, 7, 8, 9, 16] {
            let apart: Vec<f32> =
                rows.chunks(size * 84).flat_map(|rows| model.score(rows).unwrap()).collect();
            assert!(
                together.iter().zip(&apart).all(|(left, right)| left.to_bits() == right.to_bits()),
                "{size}"
            );
        }
        assert!(model.score(&[]).unwrap().is_empty());
        assert_eq!(
            model.score(&rows[..100]).unwrap(),
            &together[..model.score_count()],
            "what is left over is ignored"
        );
    }
}

#[test]
fn files_are_the_same_bytes_again_and_read_as_they_were_written() {
    let bytes = classes().to_bytes().unwrap();
    assert_eq!(classes().to_bytes().unwrap(), bytes);
    assert_eq!(Network::from_bytes(&bytes).unwrap(), classes());
    let model = load(&bytes).unwrap();
    assert_eq!((model.feature_count(), model.score_count()), (84, 3));
    assert_eq!(model.description(), "network 7x6x2, convolution 3x3 4, dense 5, dense 3 (179 weights)");
    assert!(model.byte_len() > 179 * 4);
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let bytes = classes().to_bytes().unwrap();
    for length in 0..bytes.len() {
        assert!(load(&bytes[..length]).is_err(), "{length}");
    }
    assert!(load(&[bytes.as_slice(), &[0]].concat()).is_err());
}

proptest! {
    #[test]
    fn a_file_with_other_bytes_is_refused_or_scores(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
        in_header in any::<bool>(),
    ) {
        let mut bytes = classes().to_bytes().unwrap();
        let length = if in_header { bytes.len() - 179 * 4 } else { bytes.len() };
        for (index, byte) in changes {
            bytes[index.index(length)] = byte;
        }
        if let Ok(model) = load(&bytes) {
            let scores = model.score(&vec![0.5; model.feature_count()]).unwrap();
            prop_assert_eq!(scores.len(), model.score_count());
        }
    }
}

/// A file of this architecture, in JSON, with the tensors of [`classes`] after they were changed.
fn file(
    architecture: &serde_json::Value,
    change: impl Fn(&mut Vec<(String, Vec<u8>, Vec<usize>)>),
) -> Vec<u8> {
    let network = classes();
    let images = network.architecture.check().unwrap();
    let shapes = shapes(&network.architecture, &images);
    let mut tensors = Vec::new();
    for (layer, (pair, shapes)) in network.weights.iter().zip(&shapes).enumerate() {
        for ((name, values), shape) in names(layer).into_iter().zip(pair).zip(shapes) {
            tensors.push((name, little_endian(values), shape.clone()));
        }
    }
    change(&mut tensors);
    write(&tensors, HashMap::from([("host.network".to_owned(), architecture.to_string())])).unwrap()
}

#[test]
fn says_what_is_wrong_with_a_file() {
    let architecture = serde_json::to_value(classes().architecture).unwrap();
    let refusal = |bytes: &[u8]| load(bytes).unwrap_err().to_string();
    let changed = |pointer: &str, value: serde_json::Value| {
        let mut architecture = architecture.clone();
        *architecture.pointer_mut(pointer).unwrap() = value;
        refusal(&file(&architecture, |_| {}))
    };
    assert!(load(&file(&architecture, |_| {})).is_ok());
    for (error, reason) in [
        (changed("/version", 2.into()), "its version is 2: expected 1"),
        (changed("/input/height", 8.into()), "tensor `layers.1.weight` is F32 [16, 5]: expected F32 [24, 5]"),
        (
            changed("/layers/1/units", 6.into()),
            "tensor `layers.1.weight` is F32 [16, 5]: expected F32 [16, 6]",
        ),
        (changed("/layers/0/kernel", 9.into()), "layer 0: nothing is left of the 7x6x2 that it is given"),
        (refusal(&file(&architecture, |tensors| drop(tensors.pop()))), "5 tensors: expected 6"),
        (
            refusal(&file(&architecture, |tensors| tensors[5].0 = "other".to_owned())),
            "it has no tensor `layers.2.bias`",
        ),
        (
            refusal(&file(&architecture, |tensors| {
                tensors[1].1[..4].copy_from_slice(&f32::NAN.to_le_bytes())
            })),
            "number 0 of tensor `layers.0.bias` is not finite",
        ),
        (
            refusal(&write(&[("other".to_owned(), vec![0; 4], vec![1])], HashMap::new()).unwrap()),
            "its metadata has no `host.network`",
        ),
    ] {
        assert_eq!(error, format!("malformed network model: {reason}"));
    }
    // A file without tensors is written without metadata.
    let empty = refusal(&write(&[], HashMap::new()).unwrap());
    assert!(empty.starts_with("malformed network model: "), "{empty}");
    let unknown = changed("/output", serde_json::json!({"kind": "classes", "more": 1}));
    assert!(unknown.contains("unknown field `more`") || unknown.contains("`host.network`"), "{unknown}");
    let more = serde_json::json!({"kind": "dense", "units": 5, "activation": "tanh", "more": 1});
    let unknown = changed("/layers/1", more);
    assert!(unknown.contains("unknown field `more`"), "{unknown}");
    let unknown = changed("/missing", serde_json::Value::Null);
    assert!(unknown.contains("`host.network`"), "{unknown}");
}

/// Where candle's operations are tried: on a GPU too, in a program that was built for one.
fn devices() -> Vec<candle_core::Device> {
    let mut devices = vec![candle_core::Device::Cpu];
    if cfg!(feature = "cuda") {
        devices.push(gpu().unwrap());
    }
    devices
}

#[test]
fn a_device_gives_the_same_scores_up_to_rounding() {
    let regression = Output::Regression { scale: 2.0, offset: 3.0 };
    let convolutions = |activation, pool| {
        vec![
            Layer::Convolution { kernel: 3, channels: 4, pool, activation },
            Layer::Dense { units: 1, activation: Activation::None },
        ]
    };
    for network in [
        classes(),
        network(dense(1), Output::Binary),
        network(convolutions(Activation::LeakyRelu, 1), regression),
        network(convolutions(Activation::Sigmoid, 2), regression),
    ] {
        let bytes = network.to_bytes().unwrap();
        let own = load(&bytes).unwrap();
        // With a missing number, and the beginning of a row that is never whole.
        let mut features = numbers(5 * own.feature_count() + 3, 9);
        features[7] = f32::NAN;
        let expected = own.score(&features).unwrap();
        for device in devices() {
            let device = DeviceNetwork::load(&bytes, device).unwrap();
            let counts = (device.feature_count(), device.score_count());
            assert_eq!(counts, (own.feature_count(), own.score_count()));
            assert_eq!(device.predicts_values(), own.predicts_values());
            assert!(device.may_round() && !own.may_round());
            let found = device.score(&features).unwrap();
            assert_eq!(found.len(), 5 * own.score_count());
            let is_close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-5 * a.abs().max(1.0);
            assert!(expected.iter().zip(&found).all(is_close), "{device:?}: {expected:?} {found:?}");
            assert!(device.score(&[]).unwrap().is_empty());
        }
    }
    assert!(DeviceNetwork::load(b"nothing", candle_core::Device::Cpu).is_err());
}
