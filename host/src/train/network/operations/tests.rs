use candle_core::{Device, Var};

use super::*;
use crate::model::network::{Activation, Image, Layer};
use crate::train::network::random::{Purpose, Random};

fn numbers(count: usize, number: u64) -> Vec<f32> {
    let mut random = Random::new(1, Purpose::Weights, number);
    (0..count).map(|_| random.unit() * 2.0 - 1.0).collect()
}

/// Layers of all shapes that take different ways, with what goes in.
fn layers() -> Vec<(Layer, Image)> {
    let image = |height, width, channels| Image { height, width, channels };
    let convolution =
        |kernel, channels, pool, activation| Layer::Convolution { kernel, channels, pool, activation };
    let dense = |units, activation| Layer::Dense { units, activation };
    vec![
        (convolution(3, 2, 2, Activation::Relu), image(8, 7, 1)),
        (convolution(2, 17, 1, Activation::Tanh), image(5, 4, 3)),
        (convolution(3, 18, 3, Activation::LeakyRelu), image(11, 12, 2)),
        (convolution(4, 3, 1, Activation::Sigmoid), image(4, 4, 2)),
        (convolution(1, 4, 2, Activation::None), image(3, 3, 5)),
        (dense(5, Activation::None), image(1, 1, 3)),
        (dense(33, Activation::Relu), image(2, 3, 3)),
        (dense(1, Activation::Tanh), image(1, 1, 19)),
    ]
}

/// More rows than one thread takes at a time, and not a multiple of them.
const COUNT: usize = 2 * ROWS + 3;

/// Rows, weights, biases, and what each result counts in the sum that is differentiated.
fn arguments(layer: &Layer, input: Image) -> ([Var; 3], Tensor) {
    let device = &Device::Cpu;
    let [rows, columns] = layer.weight_shape(input);
    let elements = input.elements().unwrap();
    let variable = |shape: &[usize], number| {
        Var::from_vec(numbers(shape.iter().product(), number), shape, device).unwrap()
    };
    let output = layer.output(input).unwrap().elements().unwrap();
    let share = Tensor::from_vec(numbers(COUNT * output, 4), (COUNT, output), device).unwrap();
    ([variable(&[COUNT, elements], 1), variable(&[rows, columns], 2), variable(&[columns], 3)], share)
}

fn geometry(layer: &Layer, input: Image) -> Arc<Geometry> {
    Arc::new(Geometry::new(layer, input, layer.output(input).unwrap()))
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Results, and gradients of a weighted sum of them.
fn evaluated(
    arguments: &[Var; 3],
    share: &Tensor,
    compute: impl Fn(&Tensor, &Tensor, &Tensor) -> candle_core::Result<Tensor>,
) -> (Vec<f32>, [Option<Vec<f32>>; 3]) {
    let [rows, weights, bias] = arguments;
    let output = compute(rows, weights, bias).unwrap();
    let gradients = (&output * share).unwrap().sum_all().unwrap().backward().unwrap();
    (values(&output), [rows, weights, bias].map(|variable| gradients.get(variable).map(values)))
}

#[test]
fn agree_with_candles_own_operations() {
    for (layer, input) in layers() {
        let geometry = geometry(&layer, input);
        let (arguments, share) = arguments(&layer, input);
        let (output, gradients) = evaluated(&arguments, &share, |rows, weights, bias| {
            rows.apply_op3(weights, bias, LayerOperation::new(Arc::clone(&geometry), true))
        });
        let (expected, expected_gradients) = evaluated(&arguments, &share, |rows, weights, bias| {
            crate::model::network::plain(&geometry, rows, weights, bias)
        });
        let close = |found: &[f32], expected: &[f32]| {
            assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(expected) {
                assert!(
                    (found - expected).abs() < 2e-4 * (1.0 + expected.abs()),
                    "{layer:?}: {found}, {expected}"
                );
            }
        };
        close(&output, &expected);
        for (found, expected) in gradients.iter().zip(&expected_gradients) {
            close(found.as_ref().unwrap(), expected.as_ref().unwrap());
        }
    }
}

#[test]
fn gradients_are_what_small_differences_say() {
    for (layer, input) in layers() {
        let geometry = geometry(&layer, input);
        let (arguments, share) = arguments(&layer, input);
        let compute = |rows: &Tensor, weights: &Tensor, bias: &Tensor| {
            rows.apply_op3(weights, bias, LayerOperation::new(Arc::clone(&geometry), true))
        };
        let (_, gradients) = evaluated(&arguments, &share, compute);
        let sum = |arguments: &[Tensor; 3]| {
            let output = compute(&arguments[0], &arguments[1], &arguments[2]).unwrap();
            let terms = values(&(output * &share).unwrap());
            terms.iter().copied().map(f64::from).sum::<f64>()
        };
        for (argument, gradient) in gradients.iter().enumerate() {
            let gradient = gradient.as_ref().unwrap();
            let (mut agreeing, mut checked) = (0, 0);
            for index in (0..gradient.len()).step_by(1 + gradient.len() / 40) {
                let moved = |by: f32| {
                    let mut arguments = arguments.each_ref().map(|variable| variable.as_tensor().clone());
                    let mut changed = values(&arguments[argument]);
                    changed[index] += by;
                    let shape = arguments[argument].shape().clone();
                    arguments[argument] = Tensor::from_vec(changed, shape, &Device::Cpu).unwrap();
                    sum(&arguments)
                };
                // Small, so that few of them step over a kink.
                let step = 1e-4;
                let difference = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                checked += 1;
                agreeing += usize::from(
                    (difference - f64::from(gradient[index])).abs() < 5e-3 * (1.0 + difference.abs()),
                );
            }
            // A difference that steps over a kink of a function or to another maximum says something else.
            assert!(agreeing * 10 >= checked * 9, "{layer:?}, argument {argument}: {agreeing} of {checked}");
        }
    }
}

#[test]
fn rows_have_no_gradient_where_nobody_wants_it() {
    for (layer, input) in layers() {
        let geometry = geometry(&layer, input);
        let (arguments, share) = arguments(&layer, input);
        let run = |wanted| {
            evaluated(&arguments, &share, |rows, weights, bias| {
                rows.apply_op3(weights, bias, LayerOperation::new(Arc::clone(&geometry), wanted))
            })
        };
        let ((output, [rows, weights, bias]), (full, [full_rows, full_weights, full_bias])) =
            (run(false), run(true));
        assert!(rows.is_none() && full_rows.is_some());
        assert_eq!((output, weights, bias), (full, full_weights, full_bias));
    }
}
