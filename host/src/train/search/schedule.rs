/// How trials are ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// None is.
    None,
    /// Successive halving (Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter
    /// optimization", 2016) as it is done without waiting (Li et al., "A system for massively parallel hyperparameter
    /// tuning", 2020): at rungs of more and more rounds a trial goes on if it is among the best 1/`reduction` of those
    /// that were there so far.
    Halving,
    /// Hyperband (Li et al., "Hyperband: a novel bandit-based approach to hyperparameter optimization", 2018):
    /// successive halvings that begin later and later, with fewer and fewer trials, the last of which ends none.
    Hyperband,
}

/// Decides after each round whether a trial goes on.
#[derive(Debug, Clone)]
pub struct Scheduler {
    brackets: Vec<Bracket>,
    reduction: u32,
}

/// Trials that are compared with each other.
#[derive(Debug, Clone)]
struct Bracket {
    /// How many trials in a row are in it before the next bracket's come.
    trials: u64,
    rungs: Vec<Rung>,
}

/// Where trials are compared.
#[derive(Debug, Clone)]
struct Rung {
    round: u32,
    /// What the trials that were here cost.
    costs: Vec<f64>,
}

impl Scheduler {
    /// Ends trials of up to `max_rounds` rounds, none before `min_rounds`.
    pub fn new(schedule: Schedule, min_rounds: u32, max_rounds: u32, reduction: u32) -> Self {
        let reduction = reduction.max(2);
        let rungs = |first: u32| -> Vec<Rung> {
            let rounds = std::iter::successors(Some(first.max(1)), |round| round.checked_mul(reduction));
            let rounds = rounds.take_while(|round| *round < max_rounds);
            rounds.map(|round| Rung { round, costs: Vec::new() }).collect()
        };
        let brackets = match schedule {
            Schedule::None => Vec::new(),
            Schedule::Halving => vec![Bracket { trials: 1, rungs: rungs(min_rounds) }],
            Schedule::Hyperband => {
                let all = rungs(min_rounds);
                let most = all.len();
                // The paper's bracket `s` has ⌈(s_max + 1) / (s + 1) · η^s⌉ trials and `s` rungs.
                let bracket = |s: usize| {
                    let factor = u64::from(reduction).saturating_pow(s as u32);
                    let trials = ((most as u64 + 1).saturating_mul(factor)).div_ceil(s as u64 + 1);
                    let rungs = all.iter().skip(most - s).cloned().collect();
                    Bracket { trials, rungs }
                };
                (0..=most).rev().map(bracket).collect()
            }
        };
        Self { brackets, reduction }
    }

    /// What a trial costs after a round, from 1, less being better; whether it goes on.
    pub fn goes_on(&mut self, trial: u64, round: u32, cost: f64) -> bool {
        let reduction = self.reduction as usize;
        let Some(rung) = self.rung(trial, round) else { return true };
        rung.costs.push(cost);
        let better = rung.costs.iter().filter(|other| **other < cost).count();
        !cost.is_nan() && better < (rung.costs.len() / reduction).max(1)
    }

    fn rung(&mut self, trial: u64, round: u32) -> Option<&mut Rung> {
        let all: u64 = self.brackets.iter().fold(0, |sum, bracket| sum.saturating_add(bracket.trials));
        let mut place = trial.checked_rem(all)?;
        let bracket = self.brackets.iter_mut().find(|bracket| match place.checked_sub(bracket.trials) {
            Some(rest) => {
                place = rest;
                false
            }
            None => true,
        })?;
        bracket.rungs.iter_mut().find(|rung| rung.round == round)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halving_keeps_the_best_third_so_far() {
        let mut scheduler = Scheduler::new(Schedule::Halving, 1, 27, 3);
        // The first has nobody to be compared with; the others are among the best third or they are not.
        assert!(scheduler.goes_on(0, 1, 5.0));
        assert!(!scheduler.goes_on(1, 1, 6.0));
        assert!(scheduler.goes_on(2, 1, 4.0));
        assert!(!scheduler.goes_on(3, 1, 4.5));
        assert!(!scheduler.goes_on(4, 1, f64::NAN));
        // Of six the best two.
        assert!(scheduler.goes_on(5, 1, 4.2));
        // Between rungs and at the end nobody is asked.
        assert!(scheduler.goes_on(0, 2, 9.0) && scheduler.goes_on(0, 27, 9.0));
        assert!(scheduler.goes_on(2, 3, 1.0));
        assert!(!scheduler.goes_on(5, 3, 1.1));
    }

    #[test]
    fn hyperbands_brackets_are_the_papers() {
        // R = 81, η = 3: 81, 34, 15, 8 and 5 trials, which begin with 1, 3, 9, 27 and 81 rounds.
        let scheduler = Scheduler::new(Schedule::Hyperband, 1, 81, 3);
        let brackets: Vec<(u64, Option<u32>)> = scheduler
            .brackets
            .iter()
            .map(|bracket| (bracket.trials, bracket.rungs.first().map(|rung| rung.round)))
            .collect();
        assert_eq!(brackets, [(81, Some(1)), (34, Some(3)), (15, Some(9)), (8, Some(27)), (5, None)]);
        let mut scheduler = scheduler;
        assert!(scheduler.goes_on(0, 1, 1.0) && !scheduler.goes_on(80, 1, 2.0));
        assert!(scheduler.goes_on(81, 1, 2.0) && scheduler.goes_on(81, 3, 9.0), "another bracket");
        assert!(!scheduler.goes_on(143, 1, 2.0), "the brackets come again");
    }

    #[test]
    fn nobody_is_ended_where_there_is_no_schedule_or_no_rung() {
        let mut none = Scheduler::new(Schedule::None, 1, 100, 3);
        let mut short = Scheduler::new(Schedule::Halving, 10, 10, 3);
        for round in 1..=10 {
            assert!(none.goes_on(0, round, f64::NAN) && short.goes_on(0, round, f64::NAN));
        }
    }
}
