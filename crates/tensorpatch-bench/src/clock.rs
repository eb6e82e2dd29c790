//! Time, and medians of it.

use std::time::Instant;

/// Seconds of one piece of work.
#[derive(Debug, Clone, Copy, Default)]
pub struct Seconds {
    /// On the clock on the wall.
    pub wall: f64,
    /// Of a processor in this thread: on a shared machine others count less in it.
    pub thread: f64,
}

impl Seconds {
    /// Does `work` and times it.
    pub fn of(work: impl FnOnce()) -> Self {
        let processor = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
        };
        let (wall, thread) = (Instant::now(), processor());
        work();
        Self { wall: wall.elapsed().as_secs_f64(), thread: processor() - thread }
    }
}

/// The one in the middle; NaN if there is none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
