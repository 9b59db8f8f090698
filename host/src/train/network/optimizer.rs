//! Steps down the gradient.
//!
//! Adam: Kingma and Ba, 2015; AdamW: Loshchilov and Hutter, 2019; SGD with momentum as PyTorch has it, without dampening.
//! On the processor each step is one pass over the weights; elsewhere it is put together from candle's operations.

use candle_core::{CpuStorage, InplaceOp2, InplaceOp3, Layout, Tensor, Var};

use super::operations::{slice, slice_mut};
use super::parameters::Optimizer;

/// Decay of Adam's first and second moment, and what keeps its divisor from zero.
const ADAM: (f64, f64, f64) = (0.9, 0.999, 1e-8);

/// What is remembered of gradients: nothing, their velocity, or their first and second moments.
pub(super) struct Descent {
    optimizer: Optimizer,
    momentum: f64,
    weight_decay: f64,
    /// For each variable, as many as [`Optimizer::moments`].
    pub moments: Vec<Vec<Var>>,
    /// Steps that were taken.
    pub steps: u64,
}

impl Descent {
    /// Begins at rest.
    pub(super) fn new(
        optimizer: Optimizer,
        momentum: f64,
        weight_decay: f64,
        variables: &[Var],
    ) -> candle_core::Result<Self> {
        let zeros = |variable: &Var| {
            (0..optimizer.moments()).map(|_| Var::from_tensor(&variable.zeros_like()?)).collect()
        };
        let moments = variables.iter().map(zeros).collect::<candle_core::Result<_>>()?;
        Ok(Self { optimizer, momentum, weight_decay, moments, steps: 0 })
    }

    /// Takes a step. The first of each two variables are weights, which decay; the second biases, which do not.
    pub(super) fn step(
        &mut self,
        variables: &[Var],
        gradients: &[Tensor],
        rate: f64,
    ) -> candle_core::Result<()> {
        self.steps += 1;
        for (index, ((variable, gradient), moments)) in
            variables.iter().zip(gradients).zip(&self.moments).enumerate()
        {
            let decay = if index % 2 == 0 { self.weight_decay } else { 0.0 };
            // AdamW decays the weights themselves, the others what they take for the gradient.
            if decay != 0.0 && self.optimizer == Optimizer::Adamw {
                Blend { keep: 1.0 - rate * decay, take: 0.0, squared: false }.apply(variable, gradient)?;
            } else if decay != 0.0 {
                Blend { keep: 1.0, take: decay, squared: false }.apply(gradient, variable)?;
            }
            match moments.as_slice() {
                [first, second] => self.adam(variable, gradient, first, second, rate)?,
                [velocity] => {
                    Blend { keep: self.momentum, take: 1.0, squared: false }.apply(velocity, gradient)?;
                    Blend { keep: 1.0, take: -rate, squared: false }.apply(variable, velocity)?;
                }
                _ => Blend { keep: 1.0, take: -rate, squared: false }.apply(variable, gradient)?,
            }
        }
        Ok(())
    }

    fn adam(
        &self,
        variable: &Var,
        gradient: &Tensor,
        first: &Var,
        second: &Var,
        rate: f64,
    ) -> candle_core::Result<()> {
        let (beta1, beta2, epsilon) = ADAM;
        Blend { keep: beta1, take: 1.0 - beta1, squared: false }.apply(first, gradient)?;
        Blend { keep: beta2, take: 1.0 - beta2, squared: true }.apply(second, gradient)?;
        let corrected = |beta: f64| 1.0 - beta.powf(self.steps as f64);
        let step = AdamStep { rate: rate / corrected(beta1), scale: 1.0 / corrected(beta2), epsilon };
        step.apply(variable, first, second)
    }
}

/// `kept · keep + taken · take`, where what is taken may be squared first.
struct Blend {
    keep: f64,
    take: f64,
    squared: bool,
}

impl Blend {
    fn apply(&self, kept: &Tensor, taken: &Tensor) -> candle_core::Result<()> {
        match kept.device().is_cpu() {
            true => kept.inplace_op2(taken, self),
            false => self.apply_plain(kept, taken),
        }
    }

    fn apply_plain(&self, kept: &Tensor, taken: &Tensor) -> candle_core::Result<()> {
        let taken = if self.squared { taken.sqr()? } else { taken.clone() };
        set(kept, &((kept * self.keep)? + (taken * self.take)?)?)
    }
}

impl InplaceOp2 for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }

    fn cpu_fwd(
        &self,
        kept: &mut CpuStorage,
        kept_layout: &Layout,
        taken: &CpuStorage,
        taken_layout: &Layout,
    ) -> candle_core::Result<()> {
        let taken = slice(taken, taken_layout)?;
        let (keep, take) = (self.keep as f32, self.take as f32);
        let pairs = slice_mut(kept, kept_layout)?.iter_mut().zip(taken);
        match self.squared {
            true => pairs.for_each(|(kept, taken)| *kept = *kept * keep + taken * taken * take),
            false => pairs.for_each(|(kept, taken)| *kept = *kept * keep + taken * take),
        }
        Ok(())
    }
}

/// Writes over the numbers of a tensor.
fn set(tensor: &Tensor, values: &Tensor) -> candle_core::Result<()> {
    tensor.slice_set(values, 0, 0)
}

/// `variable − rate · first / (√(scale · second) + ε)`.
struct AdamStep {
    rate: f64,
    scale: f64,
    epsilon: f64,
}

impl AdamStep {
    fn apply(&self, variable: &Var, first: &Var, second: &Var) -> candle_core::Result<()> {
        if variable.device().is_cpu() {
            return variable.inplace_op3(first, second, self);
        }
        self.apply_plain(variable, first, second)
    }

    fn apply_plain(&self, variable: &Var, first: &Var, second: &Var) -> candle_core::Result<()> {
        let divisor = ((second.as_tensor() * self.scale)?.sqrt()? + self.epsilon)?;
        set(variable, &(variable.as_tensor() - ((first.as_tensor() * self.rate)? / divisor)?)?)
    }
}

impl InplaceOp3 for AdamStep {
    fn name(&self) -> &'static str {
        "adam-step"
    }

    fn cpu_fwd(
        &self,
        variable: &mut CpuStorage,
        variable_layout: &Layout,
        first: &CpuStorage,
        first_layout: &Layout,
        second: &CpuStorage,
        second_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (first, second) = (slice(first, first_layout)?, slice(second, second_layout)?);
        let (rate, scale, epsilon) = (self.rate as f32, self.scale as f32, self.epsilon as f32);
        let moments = first.iter().zip(second);
        for (variable, (first, second)) in slice_mut(variable, variable_layout)?.iter_mut().zip(moments) {
            *variable -= rate * first / ((scale * second).sqrt() + epsilon);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// The weight after some steps down the gradient of half its square, by a rule in plain numbers.
    fn plain(optimizer: Optimizer, decay: f64, steps: u32) -> f64 {
        let (mut weight, mut first, mut second) = (1.0_f64, 0.0, 0.0);
        for step in 1..=steps {
            let mut gradient = weight;
            match optimizer {
                Optimizer::Adamw => weight -= 0.1 * decay * weight,
                Optimizer::Adam | Optimizer::Sgd => gradient += decay * weight,
            }
            if optimizer == Optimizer::Sgd {
                first = 0.9 * first + gradient;
                weight -= 0.1 * first;
                continue;
            }
            first = 0.9 * first + 0.1 * gradient;
            second = 0.999 * second + 0.001 * gradient * gradient;
            let corrected = |moment: f64, beta: f64| moment / (1.0 - beta.powi(step as i32));
            weight -= 0.1 * corrected(first, 0.9) / (corrected(second, 0.999).sqrt() + 1e-8);
        }
        weight
    }

    #[test]
    fn steps_are_those_of_the_papers() {
        for optimizer in [Optimizer::Adam, Optimizer::Adamw, Optimizer::Sgd] {
            for decay in [0.0, 0.3] {
                let variables = [Var::from_vec(vec![1.0_f32, -1.0], 2, &Device::Cpu).unwrap()];
                let mut descent = Descent::new(optimizer, 0.9, decay, &variables).unwrap();
                for _ in 0..5 {
                    let half = (variables[0].sqr().unwrap() * 0.5).unwrap().sum_all().unwrap();
                    let gradient = half.backward().unwrap().remove(&variables[0]).unwrap();
                    descent.step(&variables, &[gradient], 0.1).unwrap();
                }
                let found = variables[0].to_vec1::<f32>().unwrap();
                let expected = plain(optimizer, decay, 5) as f32;
                assert!((found[0] - expected).abs() < 1e-5, "{optimizer:?} {decay}: {found:?} {expected}");
                assert_eq!(found[0], -found[1]);
            }
        }
    }

    #[test]
    fn one_pass_is_what_candles_operations_make() {
        let variable = |values: [f32; 3]| Var::from_slice(&values, 3, &Device::Cpu).unwrap();
        let make = || (variable([1.0, -2.0, 0.5]), variable([0.1, 0.2, -0.3]), variable([0.4, 0.0, 0.01]));
        let close = |left: &Tensor, right: &Tensor| {
            let difference = (left - right).unwrap().abs().unwrap().max_all().unwrap();
            assert!(difference.to_scalar::<f32>().unwrap() < 1e-6);
        };
        let step = AdamStep { rate: 0.01, scale: 1.5, epsilon: 1e-8 };
        let ((fused, first, second), (plain, ..)) = (make(), make());
        step.apply(&fused, &first, &second).unwrap();
        step.apply_plain(&plain, &first, &second).unwrap();
        close(&fused, &plain);
        for squared in [false, true] {
            let blend = Blend { keep: 0.9, take: 0.1, squared };
            let ((fused, taken, _), (plain, ..)) = (make(), make());
            blend.apply(&fused, &taken).unwrap();
            blend.apply_plain(&plain, &taken).unwrap();
            close(&fused, &plain);
        }
    }
}
