use std::borrow::Cow;

use crate::data::error::excerpt;

/// Lists and objects in each other that [`Scanner::skip`] goes through. Nothing that means something here has ten.
const DEPTH_MAX: usize = 64;

/// Digits that a number in plain notation may have: as many as 64 bits hold whatever they are.
const DIGITS_MAX: usize = 18;

/// The floats for which JSON has no word, as Python's `json` writes and reads them, and so do many clients and servers.
pub(super) const NAN: &str = "NaN";
pub(super) const INFINITY: &str = "Infinity";
pub(super) const NEGATIVE_INFINITY: &str = "-Infinity";

/// What is wrong, without the row and column, which the caller knows.
pub(crate) type Wrong = String;

/// Walks over JSON text, token by token. Accepts exactly the grammar of RFC 8259, and as values the words
/// [`NAN`], [`INFINITY`] and [`NEGATIVE_INFINITY`].
///
/// A clone keeps its place: what is skipped first can be read later.
#[derive(Clone)]
pub(crate) struct Scanner<'a> {
    rest: &'a [u8],
    length: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of `text`.
    pub(crate) fn new(text: &'a [u8]) -> Self {
        Self { rest: text, length: text.len() }
    }

    /// Bytes that are left.
    pub(crate) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// The next byte that is not white space, which stays.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        while let [first, rest @ ..] = self.rest {
            if !matches!(first, b' ' | b'\n' | b'\t' | b'\r') {
                return Some(*first);
            }
            self.rest = rest;
        }
        None
    }

    /// Takes `wanted` if it comes next.
    #[inline]
    pub(crate) fn take(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        if let (true, [_, rest @ ..]) = (found, self.rest) {
            self.rest = rest;
        }
        found
    }

    /// Takes `wanted`, or says that it should be there.
    #[inline]
    pub(crate) fn expect(&mut self, wanted: u8) -> Result<(), Wrong> {
        if self.take(wanted) { Ok(()) } else { Err(self.unexpected(&format!("`{}`", char::from(wanted)))) }
    }

    /// After an item: whether a comma announces another; otherwise `end` was taken.
    #[inline]
    pub(crate) fn more(&mut self, end: u8) -> Result<bool, Wrong> {
        if self.take(b',') {
            return Ok(true);
        }
        if self.take(end) {
            return Ok(false);
        }
        Err(self.unexpected(&format!("`,` or `{}`", char::from(end))))
    }

    /// Takes natural numbers of at most 18 digits, each with the comma after it, while `give` takes them; gives how many
    /// there were. Anything else is left for [`Self::number`].
    ///
    /// This is the loop that a request with an image spends its time in, so it keeps its place in a local variable and
    /// looks at each byte once. Runs of zeros, of which images have many, are taken four at a time. Reading up to three
    /// digits at once without branches was slower (5.5 instead of 3.1 µs for an MNIST image): where the next number
    /// starts then waits for the arithmetic, instead of being predicted.
    #[inline]
    pub(super) fn take_plain_naturals(&mut self, mut give: impl FnMut(u64) -> bool) -> usize {
        let mut count = 0;
        let mut rest = self.rest;
        'numbers: loop {
            while let Some(zeros_bytes) = four_zeros(rest) {
                for _ in 0..4 {
                    if !give(0) {
                        break 'numbers;
                    }
                    rest = rest.get(zeros_bytes / 4..).unwrap_or_default();
                    count += 1;
                }
            }
            let mut start = rest;
            while let [b' ' | b'\n' | b'\t' | b'\r', after @ ..] = start {
                start = after;
            }
            let [first @ b'0'..=b'9', after @ ..] = start else { break };
            let mut value = u64::from(first - b'0');
            let mut end = after;
            while let [digit @ b'0'..=b'9', after @ ..] = end {
                // Wraps only for numbers that are not taken.
                value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
                end = after;
            }
            let digits = start.len() - end.len();
            let plain = digits == 1 || (*first != b'0' && digits <= 18);
            let [b',', after @ ..] = end else { break };
            if !plain || !give(value) {
                break;
            }
            rest = after;
            count += 1;
        }
        self.rest = rest;
        count
    }

    /// Takes a number of at most 18 digits without an exponent, if one comes next and something after it. Anything else,
    /// also what is no JSON, is left for [`Self::number`], which takes three times as long.
    #[inline]
    pub(super) fn decimal(&mut self) -> Option<Decimal> {
        self.peek();
        let (is_negative, number) = match self.rest {
            [b'-', number @ ..] => (true, number),
            number => (false, number),
        };
        let (whole, after) = take_digits(0, number);
        let whole_digits = number.len() - after.len();
        let (mantissa, rest, decimals) = match after {
            [b'.', fraction @ ..] => {
                let (mantissa, rest) = take_digits(whole, fraction);
                (mantissa, rest, fraction.len() - rest.len())
            }
            rest => (whole, rest, 0),
        };
        let has_fraction = decimals > 0 || !after.starts_with(b".");
        let is_whole = whole_digits == 1 || (whole_digits > 1 && number.first() != Some(&b'0'));
        let ends = matches!(rest, [b',' | b']' | b'}' | b' ' | b'\n' | b'\t' | b'\r', ..]);
        if !(is_whole && has_fraction && ends) || whole_digits + decimals > DIGITS_MAX {
            return None;
        }
        self.rest = rest;
        Some(Decimal { is_negative, mantissa, decimals })
    }

    /// Takes a number; none if something else comes next.
    pub(crate) fn number(&mut self) -> Result<Option<&'a str>, Wrong> {
        if !matches!(self.peek(), Some(b'-' | b'0'..=b'9')) {
            return Ok(None);
        }
        let (token, rest) = self.split_token();
        let text = std::str::from_utf8(token).ok().filter(|text| is_number(text.as_bytes()));
        let Some(text) = text else {
            // It begins like a number, and is a word.
            if token == NEGATIVE_INFINITY.as_bytes() {
                return Ok(None);
            }
            return Err(self.not_json("a number"));
        };
        self.rest = rest;
        Ok(Some(text))
    }

    /// Takes the literal `word` if it comes next.
    pub(crate) fn word(&mut self, word: &str) -> bool {
        self.peek();
        let (token, rest) = self.split_token();
        let found = token == word.as_bytes();
        if found {
            self.rest = rest;
        }
        found
    }

    /// Takes a string; none if something else comes next.
    pub(crate) fn string(&mut self) -> Result<Option<Cow<'a, str>>, Wrong> {
        if self.peek() != Some(b'"') {
            return Ok(None);
        }
        let mut escaped = false;
        let mut plain = true;
        let end = self.rest.iter().skip(1).position(|&byte| {
            let ends = byte == b'"' && !escaped;
            plain &= byte != b'\\' && byte >= b' ';
            escaped = byte == b'\\' && !escaped;
            ends
        });
        let Some((token, rest)) = end.and_then(|end| self.rest.split_at_checked(end + 2)) else {
            return Err(self.not_json("a string that ends"));
        };
        let content = token.get(1..token.len() - 1).filter(|_| plain);
        let text = match content.map(std::str::from_utf8) {
            Some(Ok(text)) => Cow::Borrowed(text),
            Some(Err(_)) => return Err(self.not_json("UTF-8")),
            None => match serde_json::from_slice(token) {
                Ok(text) => Cow::Owned(text),
                Err(_) => return Err(self.not_json("a string with valid escapes")),
            },
        };
        self.rest = rest;
        Ok(Some(text))
    }

    /// Takes the name of an object's next field, and the colon after it.
    pub(crate) fn key(&mut self) -> Result<Cow<'a, str>, Wrong> {
        let Some(name) = self.string()? else {
            return Err(self.unexpected("a field's name"));
        };
        self.expect(b':')?;
        Ok(name)
    }

    /// Takes a value of any kind.
    pub(crate) fn skip(&mut self) -> Result<(), Wrong> {
        // The brackets that end what is open. No recursion: how deep text is nested is the sender's choice.
        let mut open = Vec::new();
        loop {
            let end = match self.peek() {
                Some(b'[') => Some(b']'),
                Some(b'{') => Some(b'}'),
                _ => None,
            };
            if let Some(end) = end {
                self.rest = self.rest.get(1..).unwrap_or_default();
                if !self.take(end) {
                    if open.len() == DEPTH_MAX {
                        return Err(format!(
                            "expected at most {DEPTH_MAX} lists and objects in each other, found more"
                        ));
                    }
                    open.push(end);
                    if end == b'}' {
                        self.key()?;
                    }
                    continue;
                }
            } else {
                self.skip_scalar()?;
            }
            loop {
                let Some(&end) = open.last() else { return Ok(()) };
                if self.more(end)? {
                    if end == b'}' {
                        self.key()?;
                    }
                    break;
                }
                open.pop();
            }
        }
    }

    /// Takes a string, number or literal.
    fn skip_scalar(&mut self) -> Result<(), Wrong> {
        let is_taken = match self.peek() {
            Some(b'"') => self.string()?.is_some(),
            Some(b'-' | b'0'..=b'9') => self.number()?.is_some() || self.word(NEGATIVE_INFINITY),
            _ => ["null", "true", "false", NAN, INFINITY].iter().any(|word| self.word(word)),
        };
        if is_taken { Ok(()) } else { Err(self.unexpected("a value")) }
    }

    /// Says that only white space may follow.
    pub(crate) fn end(&mut self) -> Result<(), Wrong> {
        if self.peek().is_none() { Ok(()) } else { Err(self.not_json("the end")) }
    }

    /// Says what comes next, for "expected …, found …".
    pub(crate) fn found(&mut self) -> String {
        match self.peek() {
            None => "the end".to_owned(),
            Some(b'"') => "a string".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'{') => "an object".to_owned(),
            Some(_) => match self.split_token().0 {
                [] => excerpt(self.rest.get(..1).unwrap_or_default()),
                token => excerpt(token),
            },
        }
    }

    /// The sentence for a value of another kind than `expected`; says where, if it is no JSON at all.
    pub(crate) fn unexpected(&mut self, expected: &str) -> Wrong {
        let is_value = match self.peek() {
            Some(b'"' | b'[' | b'{') => true,
            Some(_) => {
                let token = self.split_token().0;
                matches!(token, b"null" | b"true" | b"false") || is_number(token)
            }
            None => false,
        };
        if is_value {
            format!("expected {expected}, found {}", self.found())
        } else {
            self.not_json(expected)
        }
    }

    fn not_json(&mut self, expected: &str) -> Wrong {
        let found = self.found();
        format!("not JSON at byte {}: expected {expected}, found {found}", self.length - self.rest.len())
    }

    /// Splits off what stands before the next delimiter.
    fn split_token(&self) -> (&'a [u8], &'a [u8]) {
        let delimiter = |byte: &u8| {
            matches!(byte, b' ' | b'\n' | b'\t' | b'\r' | b',' | b':' | b'[' | b']' | b'{' | b'}' | b'"')
        };
        let end = self.rest.iter().position(delimiter).unwrap_or(self.rest.len());
        self.rest.split_at_checked(end).unwrap_or((self.rest, &[]))
    }
}

/// A number in plain notation: `mantissa` over ten to the power of `decimals`, which are at most 18.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    pub(super) is_negative: bool,
    pub(super) mantissa: u64,
    pub(super) decimals: usize,
}

/// Goes on with a number whose digits so far are `value`; gives what follows too. Wraps for too many digits.
#[inline]
fn take_digits(value: u64, text: &[u8]) -> (u64, &[u8]) {
    let (mut value, mut rest) = (value, text);
    while let [digit @ b'0'..=b'9', after @ ..] = rest {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit - b'0'));
        rest = after;
    }
    (value, rest)
}

/// How long the first four numbers are with the commas after them, if they are zeros, each as long as the others.
#[inline]
fn four_zeros(text: &[u8]) -> Option<usize> {
    [&b"0,0,0,0,"[..], b" 0, 0, 0, 0,"].into_iter().find(|zeros| text.starts_with(zeros)).map(<[u8]>::len)
}

/// Whether `token` is a number as JSON writes it; Rust's own parser takes more, such as `+1`, `.5` and `1.`.
pub(super) fn is_number(token: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (count, text.get(count..).unwrap_or_default())
    }
    let unsigned = token.strip_prefix(b"-").unwrap_or(token);
    let (count, mut rest) = digits(unsigned);
    if count == 0 || (count > 1 && unsigned.first() == Some(&b'0')) {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (count, after) = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        let exponent = exponent.strip_prefix(b"+").or(exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let (count, after) = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_json() {
        for text in ["0", "-0", "10", "1.5", "1e5", "1E-5", "-1.25e+10", "123456789012345678901234567890"] {
            assert!(is_number(text.as_bytes()), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        for text in
            ["", "-", "01", "-01", "1.", ".5", "+1", "1e", "1e+", "0x1", "1_0", "NaN", "inf", "1.5.5", "--1"]
        {
            assert!(!is_number(text.as_bytes()), "{text}");
            assert!(serde_json::from_str::<serde_json::Value>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn naturals_are_taken_only_if_plain() {
        let mut taken = Vec::new();
        let mut scanner = Scanner::new(b"0,255, 7,\n123456789012345678,3 ,4");
        assert_eq!(
            scanner.take_plain_naturals(|value| {
                taken.push(value);
                true
            }),
            4
        );
        assert_eq!(taken, [0, 255, 7, 123_456_789_012_345_678]);
        assert_eq!(scanner.remaining(), 4);
        for text in ["0,0,0,0,0,1,", "7, 0, 0, 0, 0, 0,", "0,0,0,0, 0, 0, 0, 0,0,", "0,0,0,0,00,", "0,0,0,0]"]
        {
            let expected: Vec<_> =
                text.split(',').map(str::trim).take_while(|&number| number.len() == 1).collect();
            for room in 0..=expected.len() {
                let mut taken = Vec::new();
                let count = Scanner::new(text.as_bytes()).take_plain_naturals(|value| {
                    let is_room = taken.len() < room;
                    taken.extend(is_room.then(|| value.to_string()));
                    is_room
                });
                assert_eq!(count, room, "{text}");
                assert_eq!(taken, expected[..room], "{text}");
            }
        }
        for text in [
            "",
            "5",
            "5]",
            "00,",
            "01,",
            "1.0,",
            "1e2,",
            "-1,",
            "1234567890123456789,",
            "a,",
            "99999999999999999999999,",
        ] {
            let mut scanner = Scanner::new(text.as_bytes());
            assert_eq!(scanner.take_plain_naturals(|_| true), 0, "{text}");
            assert_eq!(scanner.remaining(), text.len(), "{text}");
        }
    }

    #[test]
    fn decimals_are_taken_only_if_plain() {
        let decimal = |text: &str| {
            let mut scanner = Scanner::new(text.as_bytes());
            let found = scanner.decimal();
            assert_eq!(scanner.remaining() == text.len(), found.is_none() || text.is_empty(), "{text}");
            found.map(|found| (found.is_negative, found.mantissa, found.decimals))
        };
        for (text, expected) in [
            ("0,", (false, 0, 0)),
            ("-0]", (true, 0, 0)),
            ("12.50}", (false, 1_250, 2)),
            ("-0.003 ,", (true, 3, 3)),
            ("123456789012345678,", (false, 123_456_789_012_345_678, 0)),
            ("0.12345678901234567]", (false, 12_345_678_901_234_567, 17)),
        ] {
            assert_eq!(decimal(text), Some(expected), "{text}");
        }
        let texts = "- , .5, 1., 01, -01.5, 1e5, 1.5e5, 1.5 1.5x 1.5.5, 1234567890123456789, 0.123456789012345678, +1, --1, \
                     nul, 1\" NaN,";
        for text in texts.split_whitespace().chain([""]) {
            assert_eq!(decimal(text), None, "{text}");
        }
    }

    #[test]
    fn values_are_skipped_if_serde_json_takes_them() {
        let texts = r#"1 null true "a\"b" [] {} [[],{}] {"a":[1,{"b":null}],"c":"]"} [ [1 [1, [1,] {"a"} {"a":} {"a":1,} {1:2} ]
                      nul [} {] [1} {"a":1]"#;
        for text in texts.split_whitespace().chain(["", " [ 1 , 2 ] ", "[1 2]"]) {
            let mut scanner = Scanner::new(text.as_bytes());
            let skipped = scanner.skip().and_then(|()| scanner.end());
            assert_eq!(skipped.is_ok(), serde_json::from_str::<serde_json::Value>(text).is_ok(), "{text}");
        }
        for text in ["NaN", "[Infinity,-Infinity]", r#"{"a":-Infinity}"#] {
            let mut scanner = Scanner::new(text.as_bytes());
            assert_eq!(scanner.skip().and_then(|()| scanner.end()), Ok(()), "{text}");
        }
        for text in ["-NaN", "nan", "Infinit", "-infinity", "+Infinity", "NaN1", "{NaN:1}", "Inf"] {
            assert!(Scanner::new(text.as_bytes()).skip().is_err(), "{text}");
        }
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(Scanner::new(nested(65).as_bytes()).skip().is_ok());
        let error = Scanner::new(nested(1_000_000).as_bytes()).skip().unwrap_err();
        assert_eq!(error, "expected at most 64 lists and objects in each other, found more");
    }

    #[test]
    fn strings_are_those_of_json() {
        for text in [r#""""#, r#""a b""#, r#""ä\n\"\\""#, r#""\u00e4""#, r#""a\\""#] {
            let mut scanner = Scanner::new(text.as_bytes());
            let expected: String = serde_json::from_str(text).unwrap();
            assert_eq!(scanner.string().unwrap().unwrap(), expected);
            assert!(scanner.end().is_ok());
        }
        for text in [&b"\"a"[..], b"\"a\\\"", b"\"\n\"", b"\"\\x\"", b"\"\xff\"", b"\"\\ud800\"", b"\""] {
            assert!(Scanner::new(text).string().is_err(), "{}", text.escape_ascii());
        }
    }
}
