use std::borrow::Cow;

use super::InferenceError;
use super::classification::{class_bytes_max, classify};
use super::error::{shown, some_names};
use crate::data::json::elements_len_max;
use crate::domain::{Batch, Tensor};

/// Outputs that a request may name; a bundle has a few.
pub(super) const OUTPUTS_MAX: usize = 256;

/// Bytes around an output, and around all of them, beside names and shapes.
const HEAD_BYTES: usize = 128;

/// Bytes of what an answer says besides its outputs, most of which the request said.
const ANSWER_HEAD_BYTES: usize = 4 * 1024;

/// Bytes that a byte of a name becomes at most.
const ESCAPED_TIMES: usize = 6;

/// Bytes of a dimension, and a comma.
const SIZE_BYTES: usize = 21;

/// How an output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputForm {
    /// Its elements are numbers and strings of the JSON.
    Json,
    /// Its elements follow the JSON as bytes.
    Binary,
}

/// An output that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestedOutput {
    /// Its name.
    pub name: String,
    /// How it is to be written; none for the form that the whole request asks for.
    pub form: Option<OutputForm>,
    /// How many of its largest elements are to be told instead of all of them; 0 for all.
    pub classes: usize,
}

/// Which outputs a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSelection {
    requested: Vec<RequestedOutput>,
    form: OutputForm,
}

/// An output as it is answered.
pub type SelectedOutput<'a> = (Cow<'a, Tensor>, OutputForm);

impl OutputSelection {
    /// The outputs `requested`, in that order, or all where it is empty; `form` for those that name none.
    pub fn new(requested: Vec<RequestedOutput>, form: OutputForm) -> Result<Self, InferenceError> {
        if requested.len() > OUTPUTS_MAX {
            return Err(InferenceError::TooManyOutputs { limit: OUTPUTS_MAX });
        }
        for (index, output) in requested.iter().enumerate() {
            let earlier = requested.get(..index).unwrap_or_default();
            if earlier.iter().any(|other| other.name == output.name) {
                return Err(InferenceError::RepeatedOutput { name: shown(&output.name) });
            }
        }
        Ok(Self { requested, form })
    }

    /// Bytes that an answer with what was asked for takes at most.
    pub fn len_max(&self, outputs: &Batch) -> usize {
        self.len_max_as(outputs, |tensor, form| match form {
            OutputForm::Json => elements_len_max(tensor),
            OutputForm::Binary => tensor.data().len(),
        })
    }

    /// The same where all outputs are raw, whatever form was asked for.
    pub fn raw_len_max(&self, outputs: &Batch) -> usize {
        self.len_max_as(outputs, |tensor, _| tensor.data().len())
    }

    fn len_max_as(&self, outputs: &Batch, elements: impl Fn(&Tensor, OutputForm) -> usize) -> usize {
        let with_head = |tensor: &Tensor, elements: usize| {
            let name = tensor.name().len().saturating_mul(ESCAPED_TIMES);
            elements.saturating_add(HEAD_BYTES + name + tensor.shape().len() * SIZE_BYTES)
        };
        let of = |requested: &RequestedOutput| {
            let Some(tensor) = outputs.column(&requested.name) else { return 0 };
            let elements = match requested.classes {
                0 => elements(tensor, requested.form.unwrap_or(self.form)),
                classes => class_bytes_max(tensor, classes),
            };
            with_head(tensor, elements)
        };
        let all = |tensor| with_head(tensor, elements(tensor, self.form));
        let outputs = match self.requested.is_empty() {
            true => outputs.tensors().iter().map(all).fold(HEAD_BYTES, usize::saturating_add),
            false => self.requested.iter().map(of).fold(HEAD_BYTES, usize::saturating_add),
        };
        outputs.saturating_add(ANSWER_HEAD_BYTES)
    }

    /// Takes what was asked for out of what was computed.
    ///
    /// Not sooner: what the last transformer makes is its own to say, and need not be what the signature promises.
    pub fn select<'a>(&self, outputs: &'a Batch) -> Result<Vec<SelectedOutput<'a>>, InferenceError> {
        if self.requested.is_empty() {
            return Ok(outputs.tensors().iter().map(|tensor| (Cow::Borrowed(tensor), self.form)).collect());
        }
        let select = |requested: &RequestedOutput| {
            let Some(tensor) = outputs.column(&requested.name) else {
                let expected = some_names(outputs.tensors().iter().map(Tensor::name));
                return Err(InferenceError::UnknownOutput { name: shown(&requested.name), expected });
            };
            let form = requested.form.unwrap_or(self.form);
            match requested.classes {
                0 => Ok((Cow::Borrowed(tensor), form)),
                classes => Ok((Cow::Owned(classify(tensor, classes)?), form)),
            }
        };
        self.requested.iter().map(select).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requested(name: &str) -> RequestedOutput {
        RequestedOutput { name: name.to_owned(), form: None, classes: 0 }
    }

    fn outputs() -> Batch {
        let column = |name: &str| Tensor::from_f32(name, vec![1], &[0.5]).unwrap();
        Batch::new(vec![column("a"), column("b")]).unwrap()
    }

    fn names(selection: &OutputSelection) -> Result<Vec<(String, OutputForm)>, String> {
        let outputs = outputs();
        let selected = selection.select(&outputs).map_err(|error| error.to_string())?;
        Ok(selected.into_iter().map(|(tensor, form)| (tensor.name().to_owned(), form)).collect())
    }

    #[test]
    fn outputs_come_in_the_order_asked_for() {
        let all = OutputSelection::new(Vec::new(), OutputForm::Binary).unwrap();
        let expected = [("a".to_owned(), OutputForm::Binary), ("b".to_owned(), OutputForm::Binary)];
        assert_eq!(names(&all).unwrap(), expected);
        let json = RequestedOutput { form: Some(OutputForm::Json), ..requested("a") };
        let some = OutputSelection::new(vec![requested("b"), json], OutputForm::Binary).unwrap();
        let expected = [("b".to_owned(), OutputForm::Binary), ("a".to_owned(), OutputForm::Json)];
        assert_eq!(names(&some).unwrap(), expected);
    }

    #[test]
    fn unknown_repeated_and_endless_outputs_are_refused() {
        let unknown = OutputSelection::new(vec![requested("c")], OutputForm::Json).unwrap();
        assert_eq!(names(&unknown).unwrap_err(), "output `c` is unknown: expected `a`, `b`");
        let error = |requested| OutputSelection::new(requested, OutputForm::Json).unwrap_err().to_string();
        assert_eq!(error(vec![requested("a"), requested("a")]), "output `a` is asked for twice");
        assert_eq!(error(vec![requested("a"); 257]), "expected at most 256 outputs, found more");
    }
}
