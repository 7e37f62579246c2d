//! A bar for people who watch: on a terminal only, never in a file or pipe.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

#[derive(Debug)]
pub(super) struct Progress {
    bar: ProgressBar,
    steps: u32,
}

impl Progress {
    /// A bar of a million parts. It hides itself where standard error is no terminal.
    pub(super) fn new() -> Self {
        let bar = ProgressBar::with_draw_target(Some(1_000_000), ProgressDrawTarget::stderr_with_hz(10));
        if let Ok(style) = ProgressStyle::with_template("replaying {bar:24} {percent:>3} %  {msg}") {
            bar.set_style(style);
        }
        Self { bar, steps: 0 }
    }

    /// Shows how far it is, now and then: `tell` is asked only when it will be shown.
    pub(super) fn step(&mut self, tell: impl FnOnce() -> (u64, String)) {
        self.steps = self.steps.wrapping_add(1);
        if self.steps % 4_096 == 0 && !self.bar.is_hidden() {
            let (ppm, words) = tell();
            self.bar.set_position(ppm);
            self.bar.set_message(words);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
