//! Sizes as text, in the form qemu-img gives them and takes them.

/// `bytes` with three significant digits and a binary unit: `1.69 MiB`.
pub(crate) fn human(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    // A unit is used from 1000 of the one below on: 0.977 KiB rather than 1000 B.
    let mut unit = 0;
    let mut divisor = 1u64;
    while unit + 1 < UNITS.len() && bytes / 1000 >= divisor {
        unit += 1;
        divisor <<= 10;
    }
    #[allow(clippy::cast_precision_loss)]
    let value = bytes as f64 / divisor as f64;
    let name = UNITS.get(unit).copied().unwrap_or_default();
    format!("{} {name}B", three_digits(value))
}

/// C's `%.3g` for values from 0 to 1000.
fn three_digits(value: f64) -> String {
    let exponential = format!("{value:.2e}");
    let exponent = exponential.split_once('e').map_or("0", |(_, e)| e);
    match exponent.parse::<i32>() {
        Ok(exponent @ -4..=2) => {
            let decimals = usize::try_from(2 - exponent).unwrap_or(0);
            let text = format!("{value:.decimals$}");
            if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.').to_owned()
            } else {
                text
            }
        }
        // 999.6 rounds up to four digits.
        _ => "1e+03".to_owned(),
    }
}

/// Why a size was not understood.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum SizeError {
    /// Not a number with a suffix.
    Invalid,
    /// More than 2^63 - 1.
    TooLarge,
}

/// The same up to 2^64 - 1.
pub(crate) fn parse_u64(text: &str) -> Result<u64, SizeError> {
    parse_up_to(text, u64::MAX)
}

/// A number of bytes with an optional suffix b, k, M, G, T, P or E (powers of 1024, either
/// case); decimal fractions and hexadecimal numbers work as in qemu-img.
pub(crate) fn parse(text: &str) -> Result<u64, SizeError> {
    parse_up_to(text, u64::MAX >> 1)
}

fn parse_up_to(text: &str, limit: u64) -> Result<u64, SizeError> {
    let text = text.trim_start();
    let lower = text.to_ascii_lowercase();
    // What would do but for its sign is out of range, rather than not a number.
    if let Some(positive) = lower.strip_prefix('-') {
        let number = positive.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        return Err(match parse(positive) {
            Err(SizeError::Invalid) => SizeError::Invalid,
            _ if number => SizeError::TooLarge,
            _ => SizeError::Invalid,
        });
    }
    let size = if let Some(digits) = lower.strip_prefix("0x") {
        // Suffixes and fractions make no sense behind hexadecimal digits.
        let valid = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_hexdigit());
        let parsed = u128::from_str_radix(digits, 16).map_err(|_| SizeError::TooLarge);
        if valid {
            parsed?
        } else {
            return Err(SizeError::Invalid);
        }
    } else {
        decimal(&lower)?
    };
    if size > u128::from(limit) {
        return Err(SizeError::TooLarge);
    }
    u64::try_from(size).map_err(|_| SizeError::TooLarge)
}

fn decimal(text: &str) -> Result<u128, SizeError> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let shift = match suffix {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(SizeError::Invalid),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return Err(SizeError::Invalid);
    }
    let has_fraction = fraction.bytes().any(|b| b != b'0');
    if has_fraction && shift == 0 {
        return Err(SizeError::Invalid);
    }
    let whole: u128 = if whole.is_empty() {
        0
    } else {
        whole.parse().map_err(|_| SizeError::TooLarge)?
    };
    if whole > u128::from(u64::MAX) {
        return Err(SizeError::TooLarge);
    }
    let mut size = whole << shift;
    if has_fraction {
        let fraction: f64 = format!("0.{fraction}")
            .parse()
            .map_err(|_| SizeError::Invalid)?;
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss
        )]
        let bytes = (fraction * (1u64 << shift) as f64 + 0.5) as u128;
        size += bytes;
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_qemu_img_prints_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (512, "512 B"),
            (1000, "0.977 KiB"),
            (1024, "1 KiB"),
            (200_704, "196 KiB"),
            (1_347_584, "1.29 MiB"),
            (1_024_000, "0.977 MiB"),
            (1_023_999, "1e+03 KiB"),
            (10 << 30, "10 GiB"),
            (1_769_984, "1.69 MiB"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }

    #[test]
    fn sizes_are_taken_as_qemu_img_takes_them() {
        for (text, bytes) in [
            ("10", 10),
            ("10b", 10),
            ("1k", 1024),
            ("1K", 1024),
            ("1.5M", 3 << 19),
            (".5G", 1 << 29),
            ("0x200", 512),
            ("7E", 7 << 60),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "", "k", "1.5", "1x", "1kk", "--1", "-x", "0x", "0x1k", "1..2k",
        ] {
            assert_eq!(parse(text), Err(SizeError::Invalid), "{text}");
        }
        for text in [
            "8E",
            "-1",
            "9999999999999999999999",
            "0xffffffffffffffffffffffffffffffffffff",
        ] {
            assert_eq!(parse(text), Err(SizeError::TooLarge), "{text}");
        }
    }
}
