//! Kubernetes quantities: `100m`, `1.5Gi`, `1e3`.

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Sub, SubAssign};
use std::str::FromStr;

use serde_json::Value;
use thiserror::Error;

/// An exact amount with the notation in which it was written.
///
/// Amounts beyond 2^63-1 are capped and amounts below one nano round away from zero, as in Kubernetes.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    /// Always within ±(2^63-1) * 10^9, so that sums and differences of two cannot overflow.
    nano: i128,
    notation: Notation,
}

/// Which family of suffixes the canonical form uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notation {
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// The text is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct ParseQuantityError;

const NANO: i128 = 1_000_000_000;
const MILLI: i128 = 1_000_000;
const MAX_NANO: i128 = (i64::MAX as i128) * NANO;
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

// === impl Quantity ===

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nano: 0, notation: Notation::DecimalSi };

    /// Thousandths in decimal notation, as CPU is counted.
    pub fn from_milli(milli: i64) -> Self {
        Self::capped(i128::from(milli) * MILLI, Notation::DecimalSi)
    }

    /// Billionths in decimal notation, as measured CPU is counted.
    pub fn from_nano(nano: i64) -> Self {
        Self::capped(i128::from(nano), Notation::DecimalSi)
    }

    /// Whole units in binary notation, as memory is counted.
    pub fn from_bytes(bytes: i64) -> Self {
        Self::capped(i128::from(bytes) * NANO, Notation::BinarySi)
    }

    /// Whole units in decimal notation, as objects are counted.
    pub fn from_count(count: i64) -> Self {
        Self::capped(i128::from(count) * NANO, Notation::DecimalSi)
    }

    /// Reads a quantity where JSON has one: a string, or a plain number.
    pub fn from_value(value: &Value) -> Result<Self, ParseQuantityError> {
        match value {
            Value::String(text) => text.parse(),
            Value::Number(number) => number.to_string().parse(),
            _ => Err(ParseQuantityError),
        }
    }

    /// Thousandths, rounded up.
    pub fn milli(&self) -> i128 {
        ceil_div(self.nano, MILLI)
    }

    /// CPU in thousandths of a core, rounded up.
    pub fn cpu_millis(&self) -> i64 {
        saturate(self.milli())
    }

    /// Whole units, rounded up: bytes of memory, number of pods.
    pub fn bytes(&self) -> i64 {
        saturate(ceil_div(self.nano, NANO))
    }

    /// Units as a floating-point number.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    fn capped(nano: i128, notation: Notation) -> Self {
        Self { nano: nano.clamp(-MAX_NANO, MAX_NANO), notation }
    }

    fn is_below_one_kibi(&self) -> bool {
        self.nano.abs() < 1024 * NANO
    }
}

impl FromStr for Quantity {
    type Err = ParseQuantityError;

    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let (negative, unsigned) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let digits_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(digits_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(ParseQuantityError);
        }
        let (notation, multiplier) = parse_suffix(suffix)?;
        let nano = multiplier.apply(whole, fraction);
        Ok(Self::capped(if negative { -nano } else { nano }, notation))
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        match self.notation {
            // A fraction of a byte or a few of them read better as decimals; so does Kubernetes.
            Notation::BinarySi if !self.is_below_one_kibi() => {
                let (mantissa, power) = strip(ceil_away(self.nano, NANO), 1024, BINARY.len() - 1);
                write!(f, "{mantissa}{}", BINARY[power])
            }
            Notation::DecimalExponent => {
                let (mantissa, power) = strip(self.nano, 1000, DECIMAL.len() - 1);
                match (power as i32 - 3) * 3 {
                    0 => write!(f, "{mantissa}"),
                    exponent => write!(f, "{mantissa}e{exponent}"),
                }
            }
            _ => {
                let (mantissa, power) = strip(self.nano, 1000, DECIMAL.len() - 1);
                write!(f, "{mantissa}{}", DECIMAL[power])
            }
        }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        // A zero has no notation of its own: summing from it must not turn mebibytes into decimals.
        let notation = if self.nano == 0 { other.notation } else { self.notation };
        Self::capped(self.nano + other.nano, notation)
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let notation = if self.nano == 0 { other.notation } else { self.notation };
        Self::capped(self.nano - other.nano, notation)
    }
}

impl AddAssign for Quantity {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl SubAssign for Quantity {
    fn sub_assign(&mut self, other: Self) {
        *self = *self - other;
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        iter.fold(Self::ZERO, Add::add)
    }
}

/// What a suffix multiplies with.
enum Multiplier {
    PowerOfTen(i32),
    PowerOfTwo(u32),
}

impl Multiplier {
    /// The amount in nano, rounded up and capped just above [`MAX_NANO`].
    fn apply(&self, whole: &str, fraction: &str) -> i128 {
        match *self {
            Self::PowerOfTen(exponent) => scaled(whole, fraction, exponent.saturating_add(9)),
            // A binary fraction needs at most 9 decimals below a nano to be rounded in the right direction.
            Self::PowerOfTwo(shift) => {
                scaled(whole, fraction, 9).saturating_mul(1 << shift).min(MAX_NANO.saturating_add(1))
            }
        }
    }
}

fn parse_suffix(suffix: &str) -> Result<(Notation, Multiplier), ParseQuantityError> {
    if let Some(power) = BINARY.iter().skip(1).position(|s| *s == suffix) {
        return Ok((Notation::BinarySi, Multiplier::PowerOfTwo((power as u32 + 1) * 10)));
    }
    if let Some(power) = DECIMAL.iter().position(|s| *s == suffix) {
        return Ok((Notation::DecimalSi, Multiplier::PowerOfTen((power as i32 - 3) * 3)));
    }
    let exponent = suffix.strip_prefix(['e', 'E']).ok_or(ParseQuantityError)?;
    let exponent: i32 = exponent.parse().map_err(|_| ParseQuantityError)?;
    Ok((Notation::DecimalExponent, Multiplier::PowerOfTen(exponent)))
}

/// `whole.fraction * 10^exponent`, rounded up, capped just above [`MAX_NANO`].
fn scaled(whole: &str, fraction: &str, exponent: i32) -> i128 {
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX).saturating_add(i64::from(exponent));
    let digits = whole.bytes().chain(fraction.bytes());
    let mut value: i128 = 0;
    let mut taken = 0i64;
    for digit in digits {
        let digit = i128::from(digit - b'0');
        if taken >= point {
            if digit > 0 {
                return value.saturating_add(1).min(MAX_NANO + 1);
            }
        } else {
            value = value * 10 + digit;
            taken += 1;
            if value > MAX_NANO {
                // More digits only make it larger, unless the point stands before them; then it was within bounds.
                return MAX_NANO + 1;
            }
        }
    }
    while taken < point && value != 0 {
        value *= 10;
        taken += 1;
        if value > MAX_NANO {
            return MAX_NANO + 1;
        }
    }
    value
}

/// Divides by `base` as often as nothing is lost, at most `limit` times.
fn strip(mut value: i128, base: i128, limit: usize) -> (i128, usize) {
    let mut power = 0;
    while power < limit && value % base == 0 {
        value /= base;
        power += 1;
    }
    (value, power)
}

fn ceil_div(value: i128, divisor: i128) -> i128 {
    value.div_euclid(divisor) + i128::from(value.rem_euclid(divisor) != 0)
}

fn ceil_away(value: i128, divisor: i128) -> i128 {
    value.signum() * ceil_div(value.abs(), divisor)
}

fn saturate(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_forms_are_those_of_kubernetes() {
        for (text, expected) in [
            ("0", "0"),
            ("0Ki", "0"),
            ("100m", "100m"),
            ("0.1", "100m"),
            ("1000m", "1"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Ki", "1000Ki"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("1500e-3", "1500e-3"),
            ("1E", "1E"),
            ("128974848", "128974848"),
            ("1000k", "1M"),
            ("0.5Ki", "512"),
            ("100n", "100n"),
            (".5", "500m"),
            ("5.", "5"),
            ("-1.5", "-1500m"),
            ("+2", "2"),
            ("0.1n", "1n"),
            ("99999999999999999999", "9223372036854775807"),
            ("1e1000000", "9223372036854775807"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn malformed_quantities_are_rejected() {
        for text in ["", "-", ".", "1.2.3", "1x", "Ki", "1ki", "1 Gi", "1e", "1e1.5", "--1", "1KiB", "٣"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn amounts_round_up() {
        let q: Quantity = "1500u".parse().unwrap();
        assert_eq!(q.cpu_millis(), 2);
        assert_eq!(q.bytes(), 1);
        assert_eq!("64Mi".parse::<Quantity>().unwrap().bytes(), 64 << 20);
    }

    #[test]
    fn sums_keep_the_notation() {
        let sum: Quantity = ["512Mi", "512Mi"].iter().map(|t| t.parse::<Quantity>().unwrap()).sum();
        assert_eq!(sum.to_string(), "1Gi");
        assert!("1Gi".parse::<Quantity>().unwrap() > "1G".parse().unwrap());
        assert_eq!(Quantity::from_milli(250).to_string(), "250m");
        assert_eq!(Quantity::from_bytes(1 << 20).to_string(), "1Mi");
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[-+0-9.eEinumkKMGTP]{0,40}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap().to_string(), quantity.to_string());
            }
        }

        #[test]
        fn millis_survive_a_round_trip(milli in any::<i32>()) {
            let quantity = Quantity::from_milli(milli.into());
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
    }
}
