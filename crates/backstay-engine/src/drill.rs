//! The drill of one plan: a rehearsal of its promotion on copies, computed as a value and carried out step by step.
//!
//! 1. What was made is torn down whatever failed before, unless it is to be kept (test
//!    `a_failed_step_skips_to_the_teardown`).
//! 2. It is for the standby alone, never beside a promotion, and one at a time (test `refusals`).
//! 3. The recovery time ends with the last step that an application would wait for; tearing down is not part of it
//!    (test `the_recovery_time_ends_with_the_probes`).
//!
//! Left to others: carrying steps out, and what must be removed after a crash.

mod facts;
mod plan;
mod steps;

pub use facts::{DrillFacts, DrillRefused};
pub use plan::{Drill, Outcome, plan};
pub use steps::{Step, StepError, StepName, StepState};

#[cfg(test)]
mod tests;
