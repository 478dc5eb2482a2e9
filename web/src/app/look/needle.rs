//! What to search for, as a person writes it.

/// The bytes that `text` means: `0x` and hexadecimal digits (with spaces where one likes) are
/// bytes, everything else is text.
///
/// # Errors
/// In words, for half a byte or another character among the digits.
pub fn parse(text: &str) -> Result<Vec<u8>, String> {
    let Some(digits) = text.strip_prefix("0x") else {
        return Ok(text.as_bytes().to_vec());
    };
    let digits: Vec<u8> = digits
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .collect();
    if digits.len() % 2 == 1 {
        return Err("Bytes have two hexadecimal digits each.".to_owned());
    }
    digits
        .chunks_exact(2)
        .map(|pair| {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            u8::from_str_radix(pair, 16).map_err(|_| format!("“{pair}” is not hexadecimal."))
        })
        .collect()
}

/// An offset as a person writes it: decimal, `0x...`, or with a binary suffix (`10M`).
#[must_use]
pub fn offset(text: &str) -> Option<u64> {
    let text = text.trim().replace('_', "");
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).ok();
    }
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text
        .get(digits.len()..)?
        .trim()
        .to_ascii_lowercase()
        .as_str()
    {
        "" | "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::{offset, parse};
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn needles_and_offsets_are_read_as_people_write_them() {
        assert_eq!(parse("0x51 46 49fb"), Ok(b"QFI\xfb".to_vec()));
        assert_eq!(parse("boot"), Ok(b"boot".to_vec()));
        assert!(parse("0x5").is_err() && parse("0xzz").is_err());
        assert_eq!(offset("0x10"), Some(16));
        assert_eq!(offset("2M"), Some(2 << 20));
        assert_eq!(offset("1 GiB"), Some(1 << 30));
        assert_eq!(offset("many"), None);
        assert_eq!(offset("99999999T"), None);
    }
}
