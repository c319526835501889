//! Numbers with units, read and shown: sizes in powers of 1024, rates in bits per second and powers of 1000.

use std::time::Duration;

/// Lowest rate in bits per second that can be meant; less is a forgotten unit.
const RATE_MIN: u64 = 100_000;

fn split(text: &str) -> Result<(f64, &str), String> {
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number
        .parse()
        .map_err(|_| format!("'{text}' does not begin with a number"))?;
    Ok((number, unit.trim()))
}

/// `number * factor` as a whole number.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "checked to be within the range"
)]
fn scaled(number: f64, factor: f64) -> Result<u64, String> {
    let value = (number * factor).round();
    match (0.0..9.0e18).contains(&value) {
        true => Ok(value as u64),
        false => Err(format!("{number} is too large")),
    }
}

/// Reads a rate in bits per second: `900M`, `1G`, `250k`, `100Mbit/s`, `12500000`.
///
/// # Errors
/// A sentence about what is wrong.
pub fn parse_rate(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor = match unit
        .trim_end_matches("/s")
        .trim_end_matches("bit")
        .trim_end_matches("bps")
    {
        "" => 1.0,
        "k" | "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        _ => {
            return Err(format!(
                "unit '{unit}': use k, M or G for kbit/s, Mbit/s, Gbit/s, as in 900M"
            ));
        }
    };
    match scaled(number, factor)? {
        rate if rate < RATE_MIN => Err(format!(
            "{rate} bit/s would take for ever: use a unit, as in 900M for 900 Mbit/s"
        )),
        rate => Ok(rate),
    }
}

/// Reads a size in bytes: `2M`, `512KiB`, `4096`. Units are powers of 1024.
///
/// # Errors
/// A sentence about what is wrong.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split(text)?;
    let factor: u32 = match unit.trim_end_matches("iB") {
        "" | "B" => 0,
        "k" | "K" => 1,
        "M" => 2,
        "G" => 3,
        "T" => 4,
        _ => {
            return Err(format!(
                "unit '{unit}': use K, M, G or T for KiB, MiB, GiB, TiB, as in 2M"
            ));
        }
    };
    scaled(number, f64::from(1024_u32).powi(factor.cast_signed()))
}

#[allow(clippy::cast_precision_loss, reason = "shown with three digits")]
fn float(value: u64) -> f64 {
    value as f64
}

/// A size for people: `1.50 GiB`.
pub fn size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = float(bytes);
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    match unit {
        0 => format!("{bytes} bytes"),
        _ => format!(
            "{value:.*} {}",
            if value < 10.0 { 2 } else { 1 },
            units[unit]
        ),
    }
}

/// Throughput for people, in MB/s (10^6 bytes per second).
pub fn throughput(bytes: u64, time: Duration) -> String {
    format!(
        "{:.1} MB/s",
        float(bytes) / time.as_secs_f64().max(1e-6) / 1e6
    )
}

/// A rate in bits per second for people: `900 Mbit/s`.
pub fn rate(bits_per_second: u64) -> String {
    let value = float(bits_per_second);
    match bits_per_second {
        0..1_000_000 => format!("{:.0} kbit/s", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.0} Mbit/s", value / 1e6),
        _ => format!("{:.2} Gbit/s", value / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        assert_eq!(parse_rate("900M"), Ok(900_000_000));
        assert_eq!(parse_rate("1.5G"), Ok(1_500_000_000));
        assert_eq!(parse_rate("100Mbit/s"), Ok(100_000_000));
        assert_eq!(parse_rate("125000"), Ok(125_000));
        for bad in ["", "M", "0", "900", "10X", "-1M", "1e300G", "99999999999G"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
        assert_eq!(rate(900_000_000), "900 Mbit/s");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("2M"), Ok(2 << 20));
        assert_eq!(parse_size("512KiB"), Ok(512 << 10));
        assert_eq!(parse_size("4096"), Ok(4096));
        assert!(parse_size("2 apples").is_err());
        assert_eq!(size(1023), "1023 bytes");
        assert_eq!(size(3 << 29), "1.50 GiB");
        assert_eq!(throughput(5_000_000, Duration::from_secs(2)), "2.5 MB/s");
    }
}
