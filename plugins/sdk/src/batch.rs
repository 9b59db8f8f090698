use crate::{Error, Tensor};

/// Named columns with the same number of rows; the only thing that flows between steps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    columns: Vec<Tensor>,
}

impl Batch {
    /// Makes a batch of columns with unique names and equally many rows.
    ///
    /// Fails with [`Error::Other`]: columns that do not fit are the fault of the plugin that makes them.
    pub fn new(columns: impl Into<Vec<Tensor>>) -> Result<Self, Error> {
        let columns = columns.into();
        for (index, column) in columns.iter().enumerate() {
            let mut before = columns.iter().take(index);
            if before.any(|earlier| earlier.name() == column.name()) {
                return Err(Error::Other(format!("column `{}` appears twice", column.name())));
            }
        }
        if let [first, rest @ ..] = columns.as_slice()
            && let Some(other) = rest.iter().find(|column| column.rows() != first.rows())
        {
            return Err(Error::Other(format!(
                "column `{}` has {} rows: expected {}, as in `{}`",
                other.name(),
                other.rows(),
                first.rows(),
                first.name()
            )));
        }
        Ok(Self { columns })
    }

    /// Number of rows; zero where there are no columns.
    pub fn rows(&self) -> usize {
        self.columns.first().map_or(0, Tensor::rows)
    }

    /// The columns, in the order in which they came.
    pub fn columns(&self) -> &[Tensor] {
        &self.columns
    }

    /// Gives the columns away.
    pub fn into_columns(self) -> Vec<Tensor> {
        self.columns
    }

    /// Column `name`; fails with [`Error::InvalidInput`] where there is none.
    pub fn column(&self, name: &str) -> Result<&Tensor, Error> {
        self.columns.iter().find(|column| column.name() == name).ok_or_else(|| self.missing(name))
    }

    /// Takes column `name` out, and leaves the others in their order; fails with [`Error::InvalidInput`] where there is none.
    pub fn take(&mut self, name: &str) -> Result<Tensor, Error> {
        match self.columns.iter().position(|column| column.name() == name) {
            Some(index) => Ok(self.columns.remove(index)),
            None => Err(self.missing(name)),
        }
    }

    /// Fails with [`Error::InvalidInput`] where a column is not one of `names`.
    pub fn refuse_others<Name: AsRef<str>>(&self, names: &[Name]) -> Result<(), Error> {
        let is_known = |column: &&Tensor| names.iter().any(|name| name.as_ref() == column.name());
        match self.columns.iter().find(|column| !is_known(column)) {
            None => Ok(()),
            Some(stray) => {
                let expected = list(names.iter().map(AsRef::as_ref));
                let message = format!("expected no other columns than {expected}, found `{}`", stray.name());
                Err(Error::invalid_input(message).column(stray.name()))
            }
        }
    }

    fn missing(&self, name: &str) -> Error {
        let found = match self.columns.as_slice() {
            [] => "no columns".to_owned(),
            columns => list(columns.iter().map(Tensor::name)),
        };
        Error::invalid_input(format!("expected a column `{name}`, found {found}")).column(name)
    }
}

/// Names for a message, cut short: a batch may have thousands of columns.
fn list<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    const LISTED_MAX: usize = 8;
    let more = names.len().saturating_sub(LISTED_MAX);
    let listed = names.take(LISTED_MAX).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if more == 0 { listed } else { format!("{listed} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(name: &str, rows: usize) -> Tensor {
        Tensor::from_values(name, [rows], vec![0_u8; rows]).unwrap()
    }

    #[test]
    fn refuses_columns_that_do_not_fit() {
        let refusal = |columns: Vec<Tensor>| Batch::new(columns).unwrap_err().to_string();
        assert_eq!(refusal(vec![column("a", 1), column("a", 1)]), "column `a` appears twice");
        assert_eq!(
            refusal(vec![column("a", 1), column("b", 2)]),
            "column `b` has 2 rows: expected 1, as in `a`"
        );
        assert_eq!(Batch::new([]).unwrap().rows(), 0);
    }

    #[test]
    fn names_what_was_expected_and_found() {
        let mut batch = Batch::new([column("a", 1), column("b", 1)]).unwrap();
        assert_eq!(
            batch.column("c").unwrap_err().to_string(),
            "column `c`: expected a column `c`, found `a`, `b`"
        );
        assert_eq!(
            batch.refuse_others(&["a"]).unwrap_err().to_string(),
            "column `b`: expected no other columns than `a`, found `b`"
        );
        assert!(batch.refuse_others(&["a", "b", "c"]).is_ok());
        assert_eq!(batch.take("a").unwrap().name(), "a");
        assert_eq!(batch.take("a").unwrap_err().to_string(), "column `a`: expected a column `a`, found `b`");
        let mut ordered = Batch::new(["a", "b", "c"].map(|name| column(name, 1))).unwrap();
        ordered.take("a").unwrap();
        let left: Vec<_> = ordered.columns().iter().map(Tensor::name).collect();
        assert_eq!(left, ["b", "c"], "the others keep their order");
        let wide =
            Batch::new((0..10).map(|index| column(&index.to_string(), 1)).collect::<Vec<_>>()).unwrap();
        assert!(wide.column("c").unwrap_err().to_string().ends_with("`7` and 2 more"));
    }
}
