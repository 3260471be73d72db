//! What an optimiser is given for one step: learning rates, weight decays and a bound.

use super::ParameterGroup;

/// The learning rates and weight decays of one step, and what parameters are clamped to after it.
///
/// The default changes nothing: every parameter has the optimiser's own, and none is clamped.
#[derive(Debug, Clone, Copy)]
pub struct Rates<'a> {
    factor: f64,
    groups: &'a [ParameterGroup],
    bound: f64,
}

impl Default for Rates<'_> {
    fn default() -> Self {
        Self { factor: 1.0, groups: &[], bound: f64::INFINITY }
    }
}

impl<'a> Rates<'a> {
    /// Those of a step at which every rate is multiplied by `factor`, with these groups of parameters.
    ///
    /// ```
    /// use wgan::optimizers::{ParameterGroup, Rates};
    /// let groups = [ParameterGroup::new("*.bias").learning_rate(0.5)];
    /// let rates = Rates::new(0.1, &groups);
    /// assert_eq!(rates.learning_rate("fc1.bias", 3.0), 0.1 * 0.5);
    /// assert_eq!(rates.learning_rate("fc1.weight", 3.0), 0.1 * 3.0);
    /// ```
    #[must_use]
    pub fn new(factor: f64, groups: &'a [ParameterGroup]) -> Self {
        Self { factor, groups, bound: f64::INFINITY }
    }

    /// The same for a step after which parameters are clamped to `[-bound, bound]`, as [clipping](crate::Lipschitz::Clip) has it: at
    /// least 0; infinity clamps nothing.
    ///
    /// ```
    /// use wgan::optimizers::Rates;
    /// assert_eq!(Rates::default().bound(), f64::INFINITY);
    /// assert_eq!(Rates::default().within(0.01).bound(), 0.01);
    /// ```
    #[must_use]
    pub fn within(self, bound: f64) -> Self {
        Self { bound, ..self }
    }

    /// What parameters are clamped to after this step: infinity where nothing is. An optimiser may leave it to the trainer; see
    /// [`Optimizer::clamps`](super::Optimizer::clamps).
    #[must_use]
    pub fn bound(&self) -> f64 {
        self.bound
    }

    /// The learning rate of a parameter at this step, where the optimiser's own is `base`.
    #[must_use]
    pub fn learning_rate(&self, parameter: &str, base: f64) -> f64 {
        self.factor * self.group(parameter).and_then(|group| group.learning_rate).unwrap_or(base)
    }

    /// The weight decay of a parameter, where the optimiser's own is `base`.
    #[must_use]
    pub fn weight_decay(&self, parameter: &str, base: f64) -> f64 {
        self.group(parameter).and_then(|group| group.weight_decay).unwrap_or(base)
    }

    fn group(&self, parameter: &str) -> Option<&ParameterGroup> {
        self.groups.iter().find(|group| group.holds(parameter))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_take_whole_names_and_the_first_holds() {
        let groups = [
            ParameterGroup::new("fc?.bias").learning_rate(1.0),
            ParameterGroup::new("*.bias").learning_rate(2.0).weight_decay(0.0),
            ParameterGroup::new("fc1.*").weight_decay(3.0),
        ];
        let rates = Rates::new(1.0, &groups);
        for (name, rate, decay) in [
            ("fc1.bias", 1.0, 9.0),
            ("block.0.fc1.bias", 2.0, 0.0),
            ("fc1.weight", 9.0, 3.0),
            ("fc1", 9.0, 9.0),
            ("fc10.bias", 2.0, 0.0),
        ] {
            let got = (rates.learning_rate(name, 9.0), rates.weight_decay(name, 9.0));
            assert_eq!(got, (rate, decay), "{name}");
        }
    }
}
