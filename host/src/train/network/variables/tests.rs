use super::*;
use crate::model::Model as _;
use crate::model::network::Image;
use crate::model::network::{Layer, NetworkModel, Output};

fn architecture() -> Architecture {
    let activation = Activation::Tanh;
    Architecture {
        version: 1,
        input: Image { height: 9, width: 8, channels: 2 },
        missing: 0.0,
        layers: vec![
            Layer::Convolution { kernel: 3, channels: 5, pool: 2, activation },
            Layer::Dense { units: 20, activation },
            Layer::Dense { units: 1, activation: Activation::None },
        ],
        output: Output::Regression { scale: 1.0, offset: 0.0 },
    }
}

fn rows() -> Vec<f32> {
    let mut random = Random::new(0, Purpose::Order, 0);
    (0..21 * 144).map(|_| random.unit()).collect()
}

fn tensor(rows: &[f32]) -> Tensor {
    Tensor::from_slice(rows, (21, 144), &Device::Cpu).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn training_and_scoring_compute_the_same_bits() {
    let network = Variables::initial(architecture(), 3).unwrap();
    let variables = Variables::new(&network, &Device::Cpu).unwrap();
    assert_eq!(variables.network().unwrap(), network);
    let model = NetworkModel::new(&network).unwrap();
    let found = variables.by_layers(tensor(&rows()), &[0.5; 21], None).unwrap();
    assert_eq!(values(&found.logits), model.score(&rows()).unwrap());
}

#[test]
fn layers_and_candle_find_the_same_gradients() {
    for output in [Output::Regression { scale: 2.0, offset: 1.0 }, Output::Binary, Output::Classes] {
        let mut architecture = Architecture { output, ..architecture() };
        if output == Output::Classes {
            architecture.layers[2] = Layer::Dense { units: 3, activation: Activation::None };
        }
        let network = Variables::initial(architecture, 3).unwrap();
        let variables = Variables::new(&network, &Device::Cpu).unwrap();
        let labels: Vec<f32> = (0..21).map(|row| (row % 2) as f32).collect();
        let dropout = Some(Dropout { seed: 1, step: 4, share: 0.25 });
        let own = variables.by_layers(tensor(&rows()), &labels, dropout).unwrap();
        let candle = variables.by_candle(tensor(&rows()), &labels, dropout).unwrap();
        assert_eq!(own.gradients.len(), 6);
        let pairs = own.gradients.iter().zip(&candle.gradients);
        for (own, candle) in pairs.chain([(&own.loss, &candle.loss), (&own.logits, &candle.logits)]) {
            assert_eq!(own.dims(), candle.dims());
            for (own, candle) in values(own).iter().zip(values(candle)) {
                assert!((own - candle).abs() < 1e-5 * (1.0 + candle.abs()), "{own} {candle}");
            }
        }
    }
}

#[test]
fn what_is_dropped_is_a_share_and_follows_from_the_seed() {
    let network = Variables::initial(architecture(), 3).unwrap();
    let variables = Variables::new(&network, &Device::Cpu).unwrap();
    let mask = |layer, step| {
        variables.mask(layer, Some(Dropout { seed: 1, step, share: 0.25 }), &[100, 100]).unwrap()
    };
    let numbers = |step| values(&mask(1, step).unwrap());
    let mean = numbers(1).iter().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    assert_eq!(numbers(1), numbers(1));
    assert_ne!(numbers(1), numbers(2));
    assert!(mask(0, 1).is_none() && mask(2, 1).is_none(), "only between dense layers");
}
