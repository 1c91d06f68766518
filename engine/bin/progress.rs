//! [`Progress`]: how far something is, on standard error: a bar on a terminal, a line a second elsewhere.

use crate::output::count;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

/// One line of figures about something that has a known end.
#[derive(Debug)]
pub(crate) struct Progress {
    form: Form,
    total: u64,
    started: Instant,
    /// What was there before the start is no work of ours: it counts in the bar and not in the rate.
    base: u64,
}

#[derive(Debug)]
enum Form {
    Bar(ProgressBar),
    Lines { said: Option<Instant> },
    Silent,
}

impl Progress {
    pub(crate) fn new(total: u64, base: u64, is_quiet: bool) -> Self {
        Self::with("rows", total, base, is_quiet)
    }

    /// Of something that is counted otherwise than in rows, from the start on.
    pub(crate) fn of(what: &str, total: u64, is_quiet: bool) -> Self {
        Self::with(what, total, 0, is_quiet)
    }

    fn with(what: &str, total: u64, base: u64, is_quiet: bool) -> Self {
        let form = if is_quiet {
            Form::Silent
        } else if std::io::stderr().is_terminal() {
            Form::Bar(bar(what, total, base))
        } else {
            Form::Lines { said: None }
        };
        Self { form, total, started: Instant::now(), base }
    }

    /// Shows how far it is, and a word about it.
    pub(crate) fn show(&mut self, position: u64, word: &str) {
        let rate = self.rate(position);
        match &mut self.form {
            Form::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(word.to_owned());
            }
            Form::Lines { said } if said.is_none_or(|at| at.elapsed() >= Duration::from_secs(1)) => {
                *said = Some(Instant::now());
                let left = self.total.saturating_sub(position);
                let eta = if rate > 0.0 { format!("{:.0} s left", left as f64 / rate) } else { "starting".to_owned() };
                let percent = position.saturating_mul(100).checked_div(self.total).unwrap_or(100);
                let (at, total) = (count(position), count(self.total));
                anstream::eprintln!("  {at} of {total} ({percent} %), {rate:.0}/s, {eta}{}{word}", sep(word));
            }
            Form::Lines { .. } | Form::Silent => {}
        }
    }

    /// A sentence beside the progress.
    pub(crate) fn say(&self, sentence: &str) {
        match &self.form {
            Form::Bar(bar) => bar.suspend(|| anstream::eprintln!("{sentence}")),
            Form::Lines { .. } => anstream::eprintln!("{sentence}"),
            Form::Silent => {}
        }
    }

    /// Takes the bar away.
    pub(crate) fn finish(&self) {
        if let Form::Bar(bar) = &self.form {
            bar.finish_and_clear();
        }
    }

    fn rate(&self, position: u64) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        if seconds > 0.0 { position.saturating_sub(self.base) as f64 / seconds } else { 0.0 }
    }
}

const fn sep(word: &str) -> &'static str {
    if word.is_empty() { "" } else { "; " }
}

fn bar(what: &str, total: u64, base: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    let template = format!("  {{bar:32}} {{human_pos}} of {{human_len}} {what}, {{per_sec}}, {{eta}} left  {{msg}}");
    if let Ok(style) = ProgressStyle::with_template(&template) {
        bar.set_style(style);
    }
    bar.set_position(base);
    bar.reset_eta();
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
