use std::cmp::Ordering;
use std::fmt;

use serde_json::{Number, Value as Json};

use super::problem::quoted;
use super::template::{Reference, reference};
use super::tree::Stop;

/// Longest condition, in bytes.
const CONDITION_MAX_BYTES: usize = 4_096;
/// Deepest nesting of `!` and parentheses.
const CONDITION_DEPTH_MAX: usize = 32;

/// The `when` of a step: whether it runs.
///
/// `||` of `&&` of comparisons (`==`, `!=`, `<`, `<=`, `>`, `>=`), `!` and parentheses over templates, numbers, texts
/// in quotes, `true`, `false` and `null`. Only values of the same type are compared (anything with `null`), and only
/// true and false are combined, so that a typing error cannot pass for "no".
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    expression: Expression,
}

#[derive(Debug, Clone, PartialEq)]
enum Expression {
    Literal(Json),
    Reference(Reference),
    Not(Box<Expression>),
    All(Vec<Expression>),
    Any(Vec<Expression>),
    Compare(Box<Expression>, Operator, Box<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Longer ones first, since `<` begins `<=`.
const OPERATORS: [(&str, Operator); 6] = [
    ("==", Operator::Equal),
    ("!=", Operator::NotEqual),
    ("<=", Operator::LessOrEqual),
    (">=", Operator::GreaterOrEqual),
    ("<", Operator::Less),
    (">", Operator::Greater),
];

impl Condition {
    /// Always or never.
    pub(super) fn constant(value: bool) -> Self {
        Self { expression: Expression::Literal(Json::Bool(value)) }
    }

    /// Reads a condition.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if text.len() > CONDITION_MAX_BYTES {
            return Err(format!(
                "the condition has {} bytes: expected at most {CONDITION_MAX_BYTES}",
                text.len()
            ));
        }
        let mut parser = Parser { rest: text, depth: 0 };
        let expression = parser.any()?;
        parser.skip_spaces();
        if parser.rest.is_empty() {
            Ok(Self { expression })
        } else {
            Err(format!("expected an operator or the condition's end, found {}", quoted(parser.rest)))
        }
    }

    /// What it refers to.
    pub fn references(&self) -> Vec<&Reference> {
        let mut found = Vec::new();
        self.expression.visit(&mut |reference| found.push(reference));
        found
    }

    /// With the references filled in that `known` knows the value of.
    pub(super) fn filled(&self, known: &impl Fn(&Reference) -> Option<Json>) -> Self {
        Self { expression: self.expression.filled(known) }
    }

    /// Whether the condition is met.
    pub(super) fn is_met(&self, look_up: &impl Fn(&Reference) -> Result<Json, Stop>) -> Result<bool, Stop> {
        truth(&self.expression.value(look_up)?)
    }
}

/// As it would be written in a file.
impl fmt::Display for Condition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.expression)
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = |formatter: &mut fmt::Formatter<'_>, list: &[Self], operator: &str| {
            list.iter().enumerate().try_for_each(|(index, expression)| {
                formatter.write_str(if index > 0 { operator } else { "" })?;
                expression.fmt_within(formatter)
            })
        };
        match self {
            Self::Literal(value) => write!(formatter, "{value}"),
            Self::Reference(reference) => write!(formatter, "${{{{ {reference} }}}}"),
            Self::Not(inner) => {
                formatter.write_str("!")?;
                inner.fmt_within(formatter)
            }
            Self::All(list) => joined(formatter, list, " && "),
            Self::Any(list) => joined(formatter, list, " || "),
            Self::Compare(left, operator, right) => {
                let sign = OPERATORS.iter().find(|(_, known)| known == operator).map_or("", |(sign, _)| sign);
                left.fmt_within(formatter)?;
                write!(formatter, " {sign} ")?;
                right.fmt_within(formatter)
            }
        }
    }
}

impl Expression {
    /// In parentheses where it consists of several.
    fn fmt_within(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(_) | Self::Any(_) | Self::Compare(..) => write!(formatter, "({self})"),
            _ => write!(formatter, "{self}"),
        }
    }

    fn visit<'own>(&'own self, visit: &mut impl FnMut(&'own Reference)) {
        match self {
            Self::Literal(_) => {}
            Self::Reference(reference) => visit(reference),
            Self::Not(inner) => inner.visit(visit),
            Self::All(list) | Self::Any(list) => list.iter().for_each(|inner| inner.visit(visit)),
            Self::Compare(left, _, right) => {
                left.visit(visit);
                right.visit(visit);
            }
        }
    }

    fn filled(&self, known: &impl Fn(&Reference) -> Option<Json>) -> Self {
        match self {
            Self::Literal(_) => self.clone(),
            Self::Reference(reference) => known(reference).map_or_else(|| self.clone(), Self::Literal),
            Self::Not(inner) => Self::Not(Box::new(inner.filled(known))),
            Self::All(list) => Self::All(list.iter().map(|inner| inner.filled(known)).collect()),
            Self::Any(list) => Self::Any(list.iter().map(|inner| inner.filled(known)).collect()),
            Self::Compare(left, operator, right) => {
                Self::Compare(Box::new(left.filled(known)), *operator, Box::new(right.filled(known)))
            }
        }
    }

    fn value(&self, look_up: &impl Fn(&Reference) -> Result<Json, Stop>) -> Result<Json, Stop> {
        Ok(match self {
            Self::Literal(value) => value.clone(),
            Self::Reference(reference) => look_up(reference)?,
            Self::Not(inner) => Json::Bool(!truth(&inner.value(look_up)?)?),
            Self::All(list) => Json::Bool(decided(list, false, look_up)?),
            Self::Any(list) => Json::Bool(decided(list, true, look_up)?),
            Self::Compare(left, operator, right) => {
                Json::Bool(compare(&left.value(look_up)?, *operator, &right.value(look_up)?)?)
            }
        })
    }
}

/// Looks at one after the other until one is `decisive`, as `&&` (false is) and `||` (true is) do.
fn decided(
    list: &[Expression],
    decisive: bool,
    look_up: &impl Fn(&Reference) -> Result<Json, Stop>,
) -> Result<bool, Stop> {
    for expression in list {
        if truth(&expression.value(look_up)?)? == decisive {
            return Ok(decisive);
        }
    }
    Ok(!decisive)
}

fn truth(value: &Json) -> Result<bool, Stop> {
    value.as_bool().ok_or_else(|| {
        Stop::Failed(format!("the condition needs true or false, found {}", quoted(&value.to_string())))
    })
}

fn compare(left: &Json, operator: Operator, right: &Json) -> Result<bool, Stop> {
    let cannot = || {
        let (left, right) = (quoted(&left.to_string()), quoted(&right.to_string()));
        Stop::Failed(format!("the condition compares {left} with {right}: expected two of the same type"))
    };
    let same_type = std::mem::discriminant(left) == std::mem::discriminant(right);
    let ordering = match (left, right) {
        (Json::Number(left), Json::Number(right)) => numbers(left, right),
        (Json::String(left), Json::String(right)) => Some(left.cmp(right)),
        _ if matches!(operator, Operator::Equal | Operator::NotEqual)
            && (same_type || left.is_null() || right.is_null()) =>
        {
            // Which of two unequal ones comes first matters to neither operator.
            Some(if left == right { Ordering::Equal } else { Ordering::Less })
        }
        _ => None,
    };
    let ordering = ordering.ok_or_else(cannot)?;
    Ok(match operator {
        Operator::Equal => ordering.is_eq(),
        Operator::NotEqual => ordering.is_ne(),
        Operator::Less => ordering.is_lt(),
        Operator::LessOrEqual => ordering.is_le(),
        Operator::Greater => ordering.is_gt(),
        Operator::GreaterOrEqual => ordering.is_ge(),
    })
}

/// Whole numbers are compared exactly, others as the floats that they are.
fn numbers(left: &Number, right: &Number) -> Option<Ordering> {
    match (left.as_i128(), right.as_i128()) {
        (Some(left), Some(right)) => Some(left.cmp(&right)),
        _ => left.as_f64()?.partial_cmp(&right.as_f64()?),
    }
}

struct Parser<'text> {
    rest: &'text str,
    depth: usize,
}

impl Parser<'_> {
    fn skip_spaces(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, sign: &str) -> bool {
        self.skip_spaces();
        let after = self.rest.strip_prefix(sign);
        self.rest = after.unwrap_or(self.rest);
        after.is_some()
    }

    fn any(&mut self) -> Result<Expression, String> {
        self.joined("||", Expression::Any, Self::all)
    }

    fn all(&mut self) -> Result<Expression, String> {
        self.joined("&&", Expression::All, Self::comparison)
    }

    fn joined(
        &mut self,
        sign: &str,
        join: fn(Vec<Expression>) -> Expression,
        part: fn(&mut Self) -> Result<Expression, String>,
    ) -> Result<Expression, String> {
        let first = part(self)?;
        if !self.take(sign) {
            return Ok(first);
        }
        let mut list = vec![first, part(self)?];
        while self.take(sign) {
            list.push(part(self)?);
        }
        Ok(join(list))
    }

    fn comparison(&mut self) -> Result<Expression, String> {
        let left = self.operand()?;
        for (sign, operator) in OPERATORS {
            if self.take(sign) {
                let right = self.operand()?;
                return Ok(Expression::Compare(Box::new(left), operator, Box::new(right)));
            }
        }
        Ok(left)
    }

    fn operand(&mut self) -> Result<Expression, String> {
        self.depth += 1;
        if self.depth > CONDITION_DEPTH_MAX {
            return Err(format!(
                "the condition is nested too deeply: expected at most {CONDITION_DEPTH_MAX} levels"
            ));
        }
        let operand = if self.take("!") {
            Expression::Not(Box::new(self.operand()?))
        } else if self.take("(") {
            let inner = self.any()?;
            if !self.take(")") {
                return Err("the condition lacks a `)`".to_owned());
            }
            inner
        } else if self.take("${{") {
            let (inside, after) = self.rest.split_once("}}").ok_or("the condition lacks a `}}`")?;
            self.rest = after;
            Expression::Reference(reference(inside.trim())?)
        } else {
            Expression::Literal(self.literal()?)
        };
        self.depth -= 1;
        Ok(operand)
    }

    fn literal(&mut self) -> Result<Json, String> {
        for quote in ["'", "\""] {
            if self.take(quote) {
                let (text, after) =
                    self.rest.split_once(quote).ok_or("the condition lacks a closing quote")?;
                self.rest = after;
                return Ok(Json::String(text.to_owned()));
            }
        }
        let is_part = |character: char| character.is_alphanumeric() || "_.+-".contains(character);
        let end = self.rest.find(|character| !is_part(character)).unwrap_or(self.rest.len());
        let (word, after) = self.rest.split_at(end);
        let literal = match word {
            "" if self.rest.is_empty() => {
                Err("expected a template or a literal, found the condition's end".to_owned())
            }
            "" => Err(format!("expected a template or a literal, found {}", quoted(self.rest))),
            "true" => Ok(Json::Bool(true)),
            "false" => Ok(Json::Bool(false)),
            "null" => Ok(Json::Null),
            _ => serde_json::from_str::<Number>(word).map(Json::Number).map_err(|_| {
                let word = quoted(word);
                format!("expected a template or a literal, found {word}: texts stand in quotes")
            }),
        }?;
        self.rest = after;
        Ok(literal)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn look_up(reference: &Reference) -> Result<Json, Stop> {
        match reference {
            Reference::Parameter(name) => Ok(match name.as_str() {
                "yes" => json!(true),
                "four" => json!(4),
                "text" => json!("a"),
                _ => json!(null),
            }),
            other => Err(Stop::Skipped(other.to_string())),
        }
    }

    fn met(text: &str) -> Result<bool, Stop> {
        Condition::parse(text).map_err(Stop::Failed)?.is_met(&look_up)
    }

    #[test]
    fn conditions_are_decided() {
        for (text, expected) in [
            ("true", true),
            ("!true", false),
            ("${{ params.yes }}", true),
            ("${{params.yes}}==true", true),
            ("!${{ params.yes }} || ${{ params.four }} >= 4", true),
            ("${{ params.four }} == 4.0 && ${{ params.four }} < 4.5", true),
            ("${{ params.text }} == 'a'", true),
            ("${{ params.text }} != \"a\"", false),
            ("'a' < 'b'", true),
            ("true || true && false", true),
            ("(true || true) && false", false),
            ("!(1 > 2)", true),
            ("${{ params.none }} == null", true),
            ("${{ params.four }} != null", true),
            ("9007199254740993 == 9007199254740992", false),
            ("-1.5e3 < 0", true),
            // What is decided already is not looked at.
            ("false && ${{ steps.a.outputs.b }}", false),
        ] {
            assert_eq!(met(text), Ok(expected), "{text}");
            let condition = Condition::parse(text).unwrap();
            assert_eq!(Condition::parse(&condition.to_string()).unwrap(), condition, "{condition}");
        }
        assert_eq!(met("${{ steps.a.outputs.b }}"), Err(Stop::Skipped("steps.a.outputs.b".to_owned())));
    }

    #[test]
    fn mistakes_are_told() {
        let failed = |text: &str| match met(text) {
            Err(Stop::Failed(message)) => message,
            other => panic!("{text}: {other:?}"),
        };
        for (text, message) in [
            ("", "expected a template or a literal, found the condition's end"),
            ("1 ==", "expected a template or a literal, found the condition's end"),
            ("1 == 1 == 1", "expected an operator or the condition's end, found `== 1`"),
            ("${{ params.text }} == a", "expected a template or a literal, found `a`: texts stand in quotes"),
            ("1 & 2", "expected an operator or the condition's end, found `& 2`"),
            ("(true", "the condition lacks a `)`"),
            ("'a", "the condition lacks a closing quote"),
            ("${{ params.a", "the condition lacks a `}}`"),
            ("4", "the condition needs true or false, found `4`"),
            ("true && 1", "the condition needs true or false, found `1`"),
            ("1 == '1'", "the condition compares `1` with `\"1\"`: expected two of the same type"),
            ("true < false", "the condition compares `true` with `false`: expected two of the same type"),
        ] {
            assert_eq!(failed(text), message, "{text}");
        }
        assert!(failed(&"(".repeat(1_000)).contains("nested too deeply"));
        assert!(failed(&"!".repeat(1_000)).contains("nested too deeply"));
        assert!(failed(&" ".repeat(10_000)).contains("at most 4096"));
    }
}
