//! Sizes as qemu-img takes them.

/// Bytes of a size such as `10G`, `1.5M`, `512k` or `65536`: powers of 1024, the letters b, k, M,
/// G, T, P and E in either case.
///
/// # Errors
/// In words, when it is no size, or larger than any file can be.
pub fn parse(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let no_size =
        || format!("\"{text}\" is no size: enter a number with K, M, G or T, such as 10G.");
    let too_large = || format!("\"{text}\" is more than a file can hold.");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let shift = match unit.trim().to_ascii_lowercase().trim_end_matches("ib") {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        "e" => 60,
        _ => return Err(no_size()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') {
        return Err(no_size());
    }
    let whole: u64 = whole.parse().map_err(|_| too_large())?;
    let whole = whole.checked_mul(1 << shift).ok_or_else(too_large)?;
    // What is behind the point, digit by digit: more than 18 of them are less than a byte.
    let mut part: u128 = 0;
    let mut divisor: u128 = 1;
    for digit in fraction.chars().take(18).filter_map(|c| c.to_digit(10)) {
        part = part * 10 + u128::from(digit);
        divisor *= 10;
    }
    let part = u64::try_from((part << shift) / divisor).unwrap_or(0);
    whole
        .checked_add(part)
        .filter(|&bytes| i64::try_from(bytes).is_ok())
        .ok_or_else(too_large)
}

/// A size that may be said relative to another one: `+1G`, `-512M`.
///
/// # Errors
/// In words.
pub fn parse_change(text: &str, now: u64) -> Result<u64, String> {
    let text = text.trim();
    let (sign, rest) = match text.split_at_checked(1) {
        Some((sign @ ("+" | "-"), rest)) => (sign, rest),
        _ => return parse(text),
    };
    let by = parse(rest)?;
    if sign == "+" {
        now.checked_add(by)
            .filter(|&bytes| i64::try_from(bytes).is_ok())
            .ok_or_else(|| format!("\"{text}\" makes it larger than a file can be."))
    } else {
        now.checked_sub(by)
            .ok_or_else(|| format!("\"{text}\" takes away more than there is."))
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, parse_change};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn sizes_are_those_of_qemu_img() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64K", 65536),
            ("64k", 65536),
            (" 1.5M ", 1_572_864),
            ("10 GiB", 10 << 30),
            ("0.5b", 0),
            ("1.000000000000000000000001k", 1024),
            ("8191P", 8191 << 50),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "G",
            "1x",
            "-1",
            "1.2.3",
            "8E",
            "99999999999999999999",
            "1e3",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[wasm_bindgen_test]
    fn changes_are_relative() {
        assert_eq!(parse_change("+1G", 1 << 30), Ok(2 << 30));
        assert_eq!(parse_change("-512", 1024), Ok(512));
        assert_eq!(parse_change("2k", 1024), Ok(2048));
        assert!(parse_change("-2k", 1024).is_err());
    }
}
