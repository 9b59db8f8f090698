use super::*;
use crate::model::Model as _;
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

#[test]
fn training_and_scoring_compute_the_same_bits() {
    let network = Variables::initial(architecture(), 3).unwrap();
    let variables = Variables::new(&network, &Device::Cpu).unwrap();
    assert_eq!(variables.network().unwrap(), network);
    let model = NetworkModel::new(&network).unwrap();
    let mut random = Random::new(0, Purpose::Order, 0);
    let rows: Vec<f32> = (0..21 * 144).map(|_| random.unit()).collect();
    let output =
        variables.forward(Tensor::from_slice(&rows, (21, 144), &Device::Cpu).unwrap(), None).unwrap();
    assert_eq!(output.flatten_all().unwrap().to_vec1::<f32>().unwrap(), model.score(&rows));
}

#[test]
fn what_is_dropped_is_a_share_and_follows_from_the_seed() {
    let network = Variables::initial(architecture(), 3).unwrap();
    let variables = Variables::new(&network, &Device::Cpu).unwrap();
    let mask = |step| {
        let mask = variables.mask(Dropout { seed: 1, step, share: 0.25 }, 1, &[100, 100]).unwrap();
        mask.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let mean = mask(1).iter().sum::<f32>() / 10_000.0;
    assert!((mean - 1.0).abs() < 0.02, "{mean}");
    assert_eq!(mask(1), mask(1));
    assert_ne!(mask(1), mask(2));
}
