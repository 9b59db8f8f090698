/// Why a plugin could not do what it was asked; the cases tell whose fault it is.
///
/// Messages are one sentence without a full stop that says what was expected and what was found:
///
/// ```
/// # use mlops_plugin::Error;
/// let error = Error::invalid_input("expected a pixel from 0 to 255, found -1").row(3).column("pixels");
/// assert_eq!(error.to_string(), "column `pixels`, row 3: expected a pixel from 0 to 255, found -1");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The batch is not what this plugin takes: the caller's fault.
    #[error("{}{message}", place(.column.as_deref(), *.row))]
    InvalidInput {
        /// What was expected and what was found.
        message: String,
        /// Zero-based row within the batch, where known.
        row: Option<u64>,
        /// Name of the column, where known.
        column: Option<String>,
    },
    /// The config is not one that this plugin takes: the operator's fault.
    #[error("invalid config: {0}")]
    InvalidConfig(String),
    /// The state was not written by this plugin: the operator's fault.
    #[error("invalid state: {0}")]
    InvalidState(String),
    /// The call needs what `fit` learns: the operator's fault.
    #[error("not fitted")]
    NotFitted,
    /// Anything else: the plugin's own fault.
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// An [`Error::InvalidInput`]; name the place with [`Error::row`] and [`Error::column`].
    pub fn invalid_input(message: impl Into<String>) -> Self {
        Self::InvalidInput { message: message.into(), row: None, column: None }
    }

    /// An [`Error::InvalidConfig`], which should name the field.
    pub fn invalid_config(message: impl Into<String>) -> Self {
        Self::InvalidConfig(message.into())
    }

    /// An [`Error::InvalidState`].
    pub fn invalid_state(message: impl Into<String>) -> Self {
        Self::InvalidState(message.into())
    }

    /// An [`Error::Other`].
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other(message.into())
    }

    /// Adds the zero-based row to an [`Error::InvalidInput`]; leaves other errors as they are.
    #[must_use]
    pub fn row(mut self, index: usize) -> Self {
        if let Self::InvalidInput { row, .. } = &mut self {
            *row = Some(index as u64);
        }
        self
    }

    /// Adds the column's name to an [`Error::InvalidInput`]; leaves other errors as they are.
    #[must_use]
    pub fn column(mut self, name: impl Into<String>) -> Self {
        if let Self::InvalidInput { column, .. } = &mut self {
            *column = Some(name.into());
        }
        self
    }
}

fn place(column: Option<&str>, row: Option<u64>) -> String {
    match (column, row) {
        (Some(column), Some(row)) => format!("column `{column}`, row {row}: "),
        (Some(column), None) => format!("column `{column}`: "),
        (None, Some(row)) => format!("row {row}: "),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_is_part_of_the_message_where_known() {
        let error = Error::invalid_input("expected a number");
        assert_eq!(error.to_string(), "expected a number");
        assert_eq!(error.clone().row(0).to_string(), "row 0: expected a number");
        assert_eq!(error.column("age").to_string(), "column `age`: expected a number");
    }

    #[test]
    fn place_leaves_other_errors_alone() {
        assert_eq!(Error::NotFitted.row(1).column("age"), Error::NotFitted);
    }
}
