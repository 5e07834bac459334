//! Makes a schedule that breaks a rule as small as it gets while it still breaks that rule.
//!
//! Nothing is cut out of the list of events, because what is left would not be a world any more (a process whose end is
//! never reported). Instead the plan is made tamer, one thing at a time, and run again: the operator does less, a worker
//! is spared its fate, a reload reads nothing new, a setting returns to its default.

use propane_core::Policy;

use crate::plan::Plan;
use crate::world::run;

/// How often a schedule may be run while it is shrunk: a few seconds' worth.
const RUNS_MAX: u32 = 20_000;

/// The tamest plan found that still `fails` as `plan` does.
pub(crate) fn shrink(plan: Plan, fails: impl Fn(&Plan) -> bool) -> Plan {
    let mut shrinking = Shrinking { plan, fails, runs: 0 };
    while shrinking.round() && shrinking.runs < RUNS_MAX {}
    shrinking.plan
}

struct Shrinking<F> {
    plan: Plan,
    fails: F,
    runs: u32,
}

impl<F: Fn(&Plan) -> bool> Shrinking<F> {
    /// Tries everything once, and tells whether anything helped.
    fn round(&mut self) -> bool {
        let mut helped = self.cut(|plan| &mut plan.script);
        helped |= self.cut(|plan| &mut plan.ambushes);
        helped |= self.cut(|plan| &mut plan.lurking);
        helped |= self.spare_workers();
        helped |= self.tame_generations();
        helped |= self.simplify_settings();
        helped | self.simplify_driver()
    }

    /// Keeps a change if the plan still fails.
    fn attempt(&mut self, change: impl FnOnce(&mut Plan)) -> bool {
        let mut plan = self.plan.clone();
        change(&mut plan);
        self.runs += 1;
        let fails = (self.fails)(&plan);
        if fails {
            self.plan = plan;
        }
        fails
    }

    /// Leaves out what the operator does, in ever smaller pieces.
    fn cut<T>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) -> bool {
        let mut helped = false;
        let mut size = list(&mut self.plan).len();
        while size > 0 {
            let mut from = 0;
            while from < list(&mut self.plan).len() {
                let to = (from + size).min(list(&mut self.plan).len());
                if self.attempt(|plan| drop(list(plan).drain(from..to))) {
                    helped = true;
                } else {
                    from = to;
                }
            }
            size /= 2;
        }
        helped
    }

    fn spare_workers(&mut self) -> bool {
        let count = run(&self.plan, false).workers;
        let mut helped = false;
        for worker in (0..count).rev() {
            if !self.plan.spared.contains(&worker) {
                helped |= self.attempt(|plan| _ = plan.spared.insert(worker));
            }
        }
        helped
    }

    fn tame_generations(&mut self) -> bool {
        let count = run(&self.plan, false).generations;
        let mut helped = false;
        for generation in (1..=count).rev() {
            if !self.plan.tamed.contains(&generation) {
                helped |= self.attempt(|plan| _ = plan.tamed.insert(generation));
            }
        }
        helped
    }

    fn simplify_settings(&mut self) -> bool {
        type Simpler = fn(&mut Policy, &Policy);
        let simpler: [Simpler; 15] = [
            |policy, _| policy.http_workers = 1,
            |policy, _| policy.http_workers = policy.http_workers.saturating_sub(1).max(1),
            |policy, _| policy.job_workers = 0,
            |policy, _| policy.job_workers = policy.job_workers.saturating_sub(1),
            |policy, default| policy.fd_limits.clone_from(&default.fd_limits),
            |policy, _| (policy.fd_limits.warn_percent, policy.fd_limits.critical_percent) = (0, 0),
            |policy, default| policy.max_rss_kib = default.max_rss_kib,
            |policy, default| policy.max_lifetime = default.max_lifetime,
            |policy, default| policy.heartbeat_timeout = default.heartbeat_timeout,
            |policy, default| policy.start_limit_burst = default.start_limit_burst,
            |policy, default| policy.shutdown_drain = default.shutdown_drain,
            |policy, default| policy.reload_max_surge = default.reload_max_surge,
            |policy, default| policy.turn_away = default.turn_away,
            |policy, default| policy.sample_interval = default.sample_interval,
            |policy, default| policy.respawn = default.respawn,
        ];
        let default = Policy::default();
        let mut helped = false;
        for change in simpler {
            let mut policy = self.plan.policy.clone();
            change(&mut policy, &default);
            if policy != self.plan.policy {
                helped |= self.attempt(|plan| plan.policy = policy);
            }
        }
        helped
    }

    fn simplify_driver(&mut self) -> bool {
        let mut helped = !self.plan.lag.is_zero() && self.attempt(|plan| plan.lag = std::time::Duration::ZERO);
        helped |= self.plan.early.is_some() && self.attempt(|plan| plan.early = None);
        helped |= self.plan.hurry.is_some() && self.attempt(|plan| plan.hurry = None);
        helped |= self.plan.last_reload && self.attempt(|plan| plan.last_reload = false);
        helped | (self.plan.mix.stray_events > 0 && self.attempt(|plan| plan.mix.stray_events = 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A schedule in which a worker is killed for its grace time, as if that were forbidden.
    #[test]
    fn what_does_not_matter_is_taken_out() {
        let fails = |plan: &Plan| run(plan, true).story.contains("grace over");
        let is_long = |plan: &Plan| plan.script.len() > 10 && run(plan, false).steps > 500;
        let plan = (0..10_000).map(Plan::of).find(|plan| is_long(plan) && fails(plan)).expect("one of many");
        let (steps, length) = (run(&plan, false).steps, plan.script.len());
        let small = shrink(plan, fails);
        assert!(fails(&small));
        assert!(small.script.len() < length / 2, "{} of {length} deeds are left", small.script.len());
        let left = run(&small, false).steps;
        assert!(left < steps, "{left} of {steps} steps are left");
    }
}
