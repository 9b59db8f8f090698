use super::super::TrackError;

/// A piece of a filter.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// A word, with the parts between its dots; quoted parts are taken as they are.
    Word(Word),
    /// `'text'` or, as a value, `"text"`.
    Text(String),
    /// A number as it was written.
    Number(String),
    /// `=`, `!=`, `<`, `<=`, `>`, `>=`.
    Operator(&'static str),
    /// `(`.
    Open,
    /// `)`.
    Close,
    /// `,`.
    Comma,
}

/// A name such as ``metrics.`val loss` `` or `metrics.'val loss'`, or a keyword such as `AND`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// What stands before the first dot outside quotes; none if there is no dot.
    pub(super) entity: Option<String>,
    /// The rest.
    pub(super) key: String,
    /// Whether a part was quoted: then it is no keyword.
    quoted: bool,
}

impl Word {
    /// A quoted word is a value where one is expected.
    pub(super) fn is_quoted(&self) -> bool {
        self.quoted
    }

    pub(super) fn is_keyword(&self, keyword: &str) -> bool {
        !self.quoted && self.entity.is_none() && self.key.eq_ignore_ascii_case(keyword)
    }
}

/// Cuts a filter or an order into tokens.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, TrackError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (token, after) = match first {
            '(' => (Token::Open, rest.get(1..)),
            ')' => (Token::Close, rest.get(1..)),
            ',' => (Token::Comma, rest.get(1..)),
            '\'' => {
                let (text, after) = quoted(rest, '\'')?;
                (Token::Text(text), Some(after))
            }
            '=' | '!' | '<' | '>' => {
                let operators = ["!=", "<=", ">=", "<>", "=", "<", ">"];
                let operator = operators.into_iter().find(|operator| rest.starts_with(operator));
                let operator = operator.ok_or_else(|| unexpected(rest))?;
                let meant = if operator == "<>" { "!=" } else { operator };
                (Token::Operator(meant), rest.get(operator.len()..))
            }
            '0'..='9' | '-' | '+' | '.' => number(rest)?,
            _ => word(rest)?,
        };
        tokens.push(token);
        rest = after.unwrap_or_default().trim_start();
    }
    Ok(tokens)
}

fn number(text: &str) -> Result<(Token, Option<&str>), TrackError> {
    let mut end = 0;
    let mut previous = ' ';
    for c in text.chars() {
        let is_part = match c {
            '0'..='9' | '.' | 'e' | 'E' => true,
            '-' | '+' => end == 0 || matches!(previous, 'e' | 'E'),
            _ => false,
        };
        if !is_part {
            break;
        }
        previous = c;
        end += 1;
    }
    let (number, after) = text.split_at_checked(end).ok_or_else(|| unexpected(text))?;
    match number.parse::<f64>() {
        Ok(_) => Ok((Token::Number(number.to_owned()), Some(after))),
        Err(_) => Err(unexpected(text)),
    }
}

fn word(text: &str) -> Result<(Token, Option<&str>), TrackError> {
    let mut parts: Vec<String> = vec![String::new()];
    let mut quotes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        match c {
            // Text in single quotes is a value, but right after a dot it is a name.
            '"' | '`' | '\'' if c != '\'' || is_after_dot(&parts) => {
                let (part, after) = quoted(rest, c)?;
                quotes.push(c);
                if let Some(last) = parts.last_mut() {
                    last.push_str(&part);
                }
                rest = after;
            }
            '.' if parts.len() == 1 => {
                parts.push(String::new());
                rest = rest.get(1..).unwrap_or_default();
            }
            c if c.is_alphanumeric() || matches!(c, '_' | '.' | '/' | '-' | ':') => {
                if let Some(last) = parts.last_mut() {
                    last.push(c);
                }
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            }
            _ => break,
        }
    }
    if rest.len() == text.len() {
        return Err(unexpected(text));
    }
    let key = parts.pop().unwrap_or_default();
    let entity = parts.pop();
    // A double-quoted text alone is a value for some clients and a name for others: the place decides.
    Ok((Token::Word(Word { entity, key, quoted: !quotes.is_empty() }), Some(rest)))
}

fn is_after_dot(parts: &[String]) -> bool {
    parts.len() == 2 && parts.last().is_some_and(String::is_empty)
}

/// Reads text in quotes, in which a doubled quote stands for one.
fn quoted(text: &str, quote: char) -> Result<(String, &str), TrackError> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != quote {
            value.push(c);
        } else if chars.peek().is_some_and(|(_, next)| *next == quote) {
            value.push(quote);
            chars.next();
        } else {
            return Ok((value, text.get(at + 1..).unwrap_or_default()));
        }
    }
    Err(TrackError::invalid(format!("Invalid filter: the quote {quote} at `{}` is not closed", shown(text))))
}

fn unexpected(text: &str) -> TrackError {
    TrackError::invalid(format!("Invalid clause(s) in filter string: `{}` is not understood", shown(text)))
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(entity: Option<&str>, key: &str, quoted: bool) -> Token {
        Token::Word(Word { entity: entity.map(str::to_owned), key: key.to_owned(), quoted })
    }

    #[test]
    fn cuts_filters_into_tokens() {
        assert_eq!(
            tokens("metrics.`val loss`<=-1.5e-3").unwrap(),
            [
                word(Some("metrics"), "val loss", true),
                Token::Operator("<="),
                Token::Number("-1.5e-3".to_owned()),
            ]
        );
        assert_eq!(
            tokens("metrics.'val loss'='x'").unwrap(),
            [word(Some("metrics"), "val loss", true), Token::Operator("="), Token::Text("x".to_owned()),]
        );
        assert_eq!(
            tokens("tags.mlflow.runName != 'it''s' AND x").unwrap(),
            [
                word(Some("tags"), "mlflow.runName", false),
                Token::Operator("!="),
                Token::Text("it's".to_owned()),
                word(None, "AND", false),
                word(None, "x", false),
            ]
        );
        assert_eq!(
            tokens("run_id IN ('a',\"b\")").unwrap(),
            [
                word(None, "run_id", false),
                word(None, "IN", false),
                Token::Open,
                Token::Text("a".to_owned()),
                Token::Comma,
                word(None, "b", true),
                Token::Close,
            ]
        );
    }

    #[test]
    fn refuses_what_no_filter_has() {
        for text in ["a ; b", "tags.a'b = 1", "a = 'b", "a = \"b", "!", "a == *", "a = 1..2", "a = --1", "@"]
        {
            assert!(tokens(text).is_err(), "{text}");
        }
    }
}
