//! Numbers for people.

use std::time::Duration;

/// Bytes as MB, 10^6.
#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn mb(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Bytes per second in MB/s.
pub(crate) fn mb_per_second(bytes: u64, time: Duration) -> f64 {
    per_second(bytes, time.as_secs_f64())
}

/// Bytes in so many seconds, in MB/s.
#[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
pub(crate) fn per_second(bytes: u64, seconds: f64) -> f64 {
    bytes as f64 / 1e6 / seconds.max(1e-6)
}

/// One number by another.
#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}
