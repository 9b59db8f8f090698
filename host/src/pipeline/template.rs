use std::fmt;

use super::problem::quoted;

/// Most templates in one text.
const REFERENCES_MAX: usize = 1_000;
/// Longest way into an output: `outputs.metrics.accuracy` has one name after the output's.
const PATH_MAX: usize = 8;

/// What a template `${{ … }}` stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reference {
    /// `params.NAME`: a parameter of the pipeline.
    Parameter(String),
    /// `matrix.NAME`: this member's value of an axis of the step's matrix.
    Matrix(String),
    /// `steps.STEP.outputs.OUTPUT`, and names of keys within it.
    Output {
        /// The step's name in the file.
        step: String,
        /// The output's name.
        output: String,
        /// Keys within the output, outermost first; usually none.
        path: Vec<String>,
    },
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(formatter, "params.{name}"),
            Self::Matrix(name) => write!(formatter, "matrix.{name}"),
            Self::Output { step, output, path } => {
                write!(formatter, "steps.{step}.outputs.{output}")?;
                path.iter().try_for_each(|key| write!(formatter, ".{key}"))
            }
        }
    }
}

/// A text with at least one `${{ … }}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pub(super) parts: Vec<Part>,
}

/// A piece of a template, as it stands or to be filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    Text(String),
    Reference(Reference),
}

impl Template {
    /// The reference if the template is exactly one and nothing else; its value then keeps its type.
    pub fn exact(&self) -> Option<&Reference> {
        match self.parts.as_slice() {
            [Part::Reference(reference)] => Some(reference),
            _ => None,
        }
    }

    /// What it refers to, in order.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|part| match part {
            Part::Reference(reference) => Some(reference),
            Part::Text(_) => None,
        })
    }
}

/// As it would be written in a file.
impl fmt::Display for Template {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.parts.iter().try_for_each(|part| match part {
            Part::Text(text) => formatter.write_str(&text.replace("${{", "$${{")),
            Part::Reference(reference) => write!(formatter, "${{{{ {reference} }}}}"),
        })
    }
}

/// The pieces of `text`; `$${{` stands for `${{` itself. Of a text without templates it is the text alone.
pub(super) fn parse(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${{") {
        if let Some(before) = before.strip_suffix('$') {
            plain.push_str(before);
            plain.push_str("${{");
            rest = after;
            continue;
        }
        plain.push_str(before);
        let Some((inside, after)) = after.split_once("}}") else {
            return Err(format!(
                "{} begins a template that no `}}}}` ends",
                quoted(&format!("${{{{{after}"))
            ));
        };
        if !plain.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut plain)));
        }
        if parts.len() > REFERENCES_MAX {
            return Err(format!("has too many templates: expected at most {REFERENCES_MAX} in one text"));
        }
        parts.push(Part::Reference(reference(inside.trim())?));
        rest = after;
    }
    plain.push_str(rest);
    if !plain.is_empty() || parts.is_empty() {
        parts.push(Part::Text(plain));
    }
    Ok(parts)
}

/// What stands between `${{` and `}}`.
pub(super) fn reference(inside: &str) -> Result<Reference, String> {
    let names: Vec<&str> = inside.split('.').collect();
    let found = match names.as_slice() {
        ["params", name] if is_key(name) => Reference::Parameter((*name).to_owned()),
        ["matrix", name] if is_key(name) => Reference::Matrix((*name).to_owned()),
        ["steps", step, "outputs", output, path @ ..]
            if path.len() <= PATH_MAX && [step, output].into_iter().chain(path).all(|name| is_key(name)) =>
        {
            Reference::Output {
                step: (*step).to_owned(),
                output: (*output).to_owned(),
                path: path.iter().map(|name| (*name).to_owned()).collect(),
            }
        }
        _ => {
            let inside = quoted(&format!("${{{{ {inside} }}}}"));
            return Err(format!(
                "{inside} is not a template: expected `steps.STEP.outputs.OUTPUT`, `params.NAME` or `matrix.NAME`"
            ));
        }
    };
    Ok(found)
}

/// Names within a template. Names of metrics may hold `/` and `@`.
fn is_key(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|character| character.is_ascii_alphanumeric() || "-_/@".contains(character))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        let parts = parse(text).unwrap();
        format!("{parts:?}")
    }

    #[test]
    fn texts_are_split_at_their_templates() {
        assert_eq!(shown(""), r#"[Text("")]"#);
        assert_eq!(shown("a $ {{ b }}"), r#"[Text("a $ {{ b }}")]"#);
        assert_eq!(shown("${{params.a}}"), r#"[Reference(Parameter("a"))]"#);
        assert_eq!(
            shown("x-${{ params.a }}${{ matrix.b }}!"),
            r#"[Text("x-"), Reference(Parameter("a")), Reference(Matrix("b")), Text("!")]"#
        );
        assert_eq!(
            shown("${{ steps.t.outputs.metrics.f1/macro }}"),
            r#"[Reference(Output { step: "t", output: "metrics", path: ["f1/macro"] })]"#
        );
        assert_eq!(shown("$${{ params.a }}"), r#"[Text("${{ params.a }}")]"#);
    }

    #[test]
    fn other_expressions_are_refused() {
        for text in [
            "${{ }}",
            "${{ params }}",
            "${{ params.a.b }}",
            "${{ steps.a.outputs }}",
            "${{ steps.a.output.b }}",
            "${{ env.HOME }}",
            "${{ params.a + 1 }}",
            "${{ params. a }}",
            "${{ params.a",
            "${{ steps.a.outputs.b.1.2.3.4.5.6.7.8.9 }}",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("${{ env.HOME }}").unwrap_err(),
            "`${{ env.HOME }}` is not a template: expected `steps.STEP.outputs.OUTPUT`, `params.NAME` or `matrix.NAME`"
        );
        assert_eq!(
            parse("a ${{ params.a").unwrap_err(),
            "`${{ params.a` begins a template that no `}}` ends"
        );
        assert!(parse(&"${{ params.a }}".repeat(2_000)).is_err());
    }

    #[test]
    fn templates_are_written_as_they_are_read() {
        for text in ["a ${{ params.b }}", "$${{ x }} ${{ steps.a.outputs.b.c }}"] {
            let template = Template { parts: parse(text).unwrap() };
            assert_eq!(template.to_string(), text);
        }
    }
}
