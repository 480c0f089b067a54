//! Showing how far a long request is while it runs, on standard error: a bar on a terminal, else a line every 5 s.
//!
//! The daemon is asked for its status beside the request. What that costs, or that it fails, never touches the request:
//! progress is a courtesy.

use std::future::Future;
use std::io::{self, IsTerminal as _};
use std::pin::pin;
use std::time::Duration;

use backstay_daemon::api_types::{CycleStatus, List, PlanStatus};
use backstay_types::PlanName;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::client::Client;
use crate::failure::Failure;
use crate::output::{bytes, rate, seconds};
use crate::render;

/// Ten times a second is as smooth as a bar needs to be; half of that keeps the daemon free.
const BAR_EVERY: Duration = Duration::from_millis(200);
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Steps of the bar: tenths of a percent.
const BAR_STEPS: u64 = 1000;

/// What to look at while waiting.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Watch<'a> {
    /// One plan.
    Plan(&'a PlanName),
    /// Whatever runs first.
    Any,
}

/// Waits for `work`, showing what the daemon does meanwhile.
pub(crate) async fn during<T>(
    client: &Client,
    watch: Watch<'_>,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let mut view = View::new();
    let every = if matches!(view, View::Bar(_)) { BAR_EVERY } else { LINE_EVERY };
    let mut work = pin!(work);
    loop {
        tokio::select! {
            outcome = &mut work => {
                view.clear();
                return outcome;
            }
            () = tokio::time::sleep(every) => {}
        }
        let asked = async {
            // Without an answer, the last one keeps standing.
            if let Some((plan, cycle)) = ask(client, watch).await {
                view.update(&plan, &cycle);
            }
        };
        // The request may end while the status is on its way.
        tokio::select! {
            outcome = &mut work => {
                view.clear();
                return outcome;
            }
            () = asked => {}
        }
    }
}

async fn ask(client: &Client, watch: Watch<'_>) -> Option<(PlanName, CycleStatus)> {
    let running = |status: PlanStatus| status.cycle.map(|cycle| (status.plan, cycle));
    match watch {
        Watch::Plan(plan) => {
            let status: PlanStatus = client.get(&format!("/plans/{plan}/status")).await.ok()?;
            running(status)
        }
        Watch::Any => {
            let all: List<PlanStatus> = client.get("/status").await.ok()?;
            all.items.into_iter().find_map(running)
        }
    }
}

enum View {
    Bar(ProgressBar),
    Lines,
}

impl View {
    fn new() -> Self {
        if !io::stderr().is_terminal() {
            return View::Lines;
        }
        let bar = ProgressBar::with_draw_target(Some(BAR_STEPS), ProgressDrawTarget::stderr());
        bar.set_style(style(false));
        View::Bar(bar)
    }

    fn update(&mut self, plan: &PlanName, cycle: &CycleStatus) {
        match self {
            View::Lines => eprintln!("{plan}: {}", render::progress(cycle)),
            View::Bar(bar) => {
                let step = steps(cycle);
                bar.set_style(style(step.is_some()));
                bar.set_prefix(format!("{plan} {}", cycle.phase.as_str()));
                bar.set_message(beside_bar(cycle));
                bar.set_position(step.unwrap_or(0));
                bar.tick();
            }
        }
    }

    fn clear(&self) {
        if let View::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

fn style(known: bool) -> ProgressStyle {
    let template = if known { "{prefix} [{bar:30}] {msg}" } else { "{prefix} {spinner} {msg}" };
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

/// Where the bar stands, if anything to go by is known.
fn steps(cycle: &CycleStatus) -> Option<u64> {
    let by_bytes = || {
        let total = cycle.bytes_total.filter(|total| *total > 0)?;
        let share = u128::from(cycle.bytes_done.min(total)) * u128::from(BAR_STEPS) / u128::from(total);
        u64::try_from(share).ok()
    };
    let by_percent = |percent: f64| {
        // A percentage as a length of time: the one conversion of a float that cannot overflow or wrap.
        Duration::try_from_secs_f64(percent.clamp(0.0, 100.0)).map(|exact| exact.as_millis() / 100)
    };
    match cycle.percent {
        Some(percent) => by_percent(percent).ok().and_then(|steps| u64::try_from(steps).ok()),
        None => by_bytes(),
    }
}

/// `45% 1.2 GiB of 2.6 GiB 110.0 MiB/s 12s left`.
fn beside_bar(cycle: &CycleStatus) -> String {
    let mut parts: Vec<_> = cycle.percent.map(|percent| format!("{percent:.0}%")).into_iter().collect();
    match cycle.bytes_total {
        Some(total) => parts.push(format!("{} of {}", bytes(cycle.bytes_done), bytes(total))),
        None => parts.push(bytes(cycle.bytes_done)),
    }
    parts.push(rate(cycle.bytes_per_second));
    parts.extend(cycle.eta_seconds.map(|eta| format!("{} left", seconds(eta))));
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use backstay_daemon::api_types::CyclePhase;

    use super::*;

    fn cycle(percent: Option<f64>, done: u64, total: Option<u64>) -> CycleStatus {
        CycleStatus {
            phase: CyclePhase::Transfer,
            percent,
            bytes_done: done,
            bytes_total: total,
            bytes_per_second: 0.0,
            eta_seconds: None,
        }
    }

    #[test]
    fn the_bar_stands_where_the_work_is() {
        for (percent, done, total, step) in [
            (Some(0.0), 0, None, Some(0)),
            (Some(45.0), 0, None, Some(450)),
            (Some(100.0), 0, None, Some(1000)),
            (Some(250.0), 0, None, Some(1000)),
            (Some(f64::NAN), 0, None, None),
            (None, 5, Some(10), Some(500)),
            (None, 20, Some(10), Some(1000)),
            (None, u64::MAX, Some(u64::MAX), Some(1000)),
            (None, 0, Some(0), None),
            (None, 5, None, None),
        ] {
            assert_eq!(steps(&cycle(percent, done, total)), step, "{percent:?} {done} {total:?}");
        }
    }
}
