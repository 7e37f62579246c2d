//! Axes: from values to pixels, with ticks at round numbers.

use libgateway::Timestamp;

use super::words;
use crate::civil;

/// One axis of a plot.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    min: f64,
    max: f64,
    is_log: bool,
    /// What it shows, with its unit.
    pub(super) title: String,
    /// Values that are marked, with their words.
    pub(super) ticks: Vec<(f64, String)>,
}

impl Axis {
    /// From 0 to a round number not below `max`.
    pub(super) fn up_to(max: f64, title: impl Into<String>) -> Self {
        let step = round_step(max / 4.0);
        let steps = (max / step).ceil().max(1.0);
        Self::stepped(step * steps, step, title, words::short)
    }

    /// From 0 to 100 %.
    pub(super) fn percent(title: impl Into<String>) -> Self {
        Self::stepped(100.0, 25.0, title, |value| format!("{value} %"))
    }

    fn stepped(max: f64, step: f64, title: impl Into<String>, tell: impl Fn(f64) -> String) -> Self {
        let steps = (max / step).round() as usize;
        let ticks = (0..=steps).map(|index| index as f64 * step).map(|value| (value, tell(value))).collect();
        Self { min: 0.0, max, is_log: false, title: title.into(), ticks }
    }

    /// Time since the beginning of a replay.
    pub(super) fn time(start: Timestamp, seconds: f64) -> Self {
        let (unit, name, steps): (f64, _, &[f64]) = match seconds {
            few if few <= 180.0 => (1.0, "seconds", &[0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0]),
            few if few <= 10_800.0 => (60.0, "minutes", &[1.0, 2.0, 5.0, 10.0, 15.0, 30.0]),
            few if few <= 259_200.0 => (3_600.0, "hours", &[1.0, 2.0, 3.0, 6.0, 12.0]),
            _ => (86_400.0, "days", &[1.0, 2.0, 5.0, 10.0]),
        };
        let max = (seconds / unit).max(1e-3);
        let found = steps.iter().copied().find(|step| max / step <= TIME_TICKS_MAX);
        let step = found.unwrap_or_else(|| round_step(max / TIME_TICKS_MAX * 1.5));
        let ticks = (0..=(max / step) as usize).map(|index| index as f64 * step);
        let ticks = ticks.map(|value| (value * unit, words::short(value))).collect();
        let title = format!("{name} since {} UTC", civil::format(start));
        Self { min: 0.0, max: max * unit, is_log: false, title, ticks }
    }

    /// Waits from a millisecond to `max` seconds, each decade as wide as the other.
    pub(super) fn waits(max: f64, title: impl Into<String>) -> Self {
        let marks = [0.001, 0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 36_000.0, 86_400.0, 864_000.0, 8_640_000.0];
        let end = marks.iter().copied().find(|mark| *mark >= max && *mark >= 1.0).unwrap_or(max);
        let shown = marks.iter().copied().filter(|mark| *mark <= end);
        let tell = |mark: f64| if mark <= WAIT_MIN { "≤ 1 ms".to_owned() } else { words::duration(mark) };
        let ticks = shown.map(|mark| (mark, tell(mark))).collect();
        Self { min: WAIT_MIN, max: end, is_log: true, title: title.into(), ticks }
    }

    /// Evenly spaced names, the values 0, 1, 2…
    pub(super) fn names(names: &[&str], title: impl Into<String>) -> Self {
        let ticks = names.iter().enumerate().map(|(index, name)| (index as f64, (*name).to_owned())).collect();
        Self { min: -0.3, max: names.len() as f64 - 0.7, is_log: false, title: title.into(), ticks }
    }

    /// Where a value lies: 0 at the beginning of the axis, 1 at its end.
    pub(super) fn at(&self, value: f64) -> f64 {
        let place = |value: f64| if self.is_log { value.max(self.min).ln() } else { value };
        let (min, max) = (place(self.min), place(self.max));
        ((place(value) - min) / (max - min)).clamp(0.0, 1.0)
    }
}

/// A step of 1, 2 or 5 times a power of ten, not below `step`.
fn round_step(step: f64) -> f64 {
    if step <= 0.0 || !step.is_finite() {
        return 1.0;
    }
    let power = 10_f64.powf(step.log10().floor());
    let found = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|round| *round >= step * 0.999_999);
    found.unwrap_or(power * 10.0)
}

/// More would run into each other.
const TIME_TICKS_MAX: f64 = 13.0;
/// Waits of this many seconds and less are drawn as one.
const WAIT_MIN: f64 = 0.001;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        for (max, end, count) in [(0.0, 1.0, 2), (7.0, 8.0, 5), (16.0, 20.0, 5), (1_000.0, 1_000.0, 3), (0.03, 0.03, 4)]
        {
            let axis = Axis::up_to(max, "");
            let last = axis.ticks.last().unwrap().0;
            assert!((last - end).abs() < 1e-9 && axis.ticks.len() == count, "{max}: {:?}", axis.ticks);
        }
        for seconds in [0.0, 0.5, 60.0, 180.0, 7_200.0, 86_400.0, 2_000_000.0, 9e9] {
            let axis = Axis::time(Timestamp::EPOCH, seconds);
            assert!((1..=14).contains(&axis.ticks.len()), "{seconds}: {:?}", axis.ticks);
        }
    }

    #[test]
    fn decades_of_waiting_are_equally_wide() {
        let axis = Axis::waits(50.0, "");
        assert_eq!(axis.at(0.0), 0.0);
        assert!((axis.at(0.1) - 2.0 * axis.at(0.01)).abs() < 1e-9);
        assert_eq!(axis.at(1e9), 1.0);
    }
}
