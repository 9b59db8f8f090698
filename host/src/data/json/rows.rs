use super::elements::{WrongInRow, take_row};
use super::scan::{Scanner, Wrong};
use super::{JsonError, RowForm, UnknownColumns};
use crate::domain::{Batch, ColumnSpec, Tensor};

/// The columns of a batch while their rows arrive.
pub(super) struct Columns<'a> {
    columns: Vec<Column<'a>>,
    rows: usize,
    unknown: UnknownColumns,
}

struct Column<'a> {
    spec: &'a ColumnSpec,
    data: Vec<u8>,
    rows: usize,
}

/// Reads an object or a list of objects, whose fields are the columns `specs`; at most `rows_max` rows.
///
/// A field holds its row's elements nested as the shape is, or as a flat list. Every column must be there, once, and no
/// other. `null` is a missing element of a nullable column of floats, and so is `NaN`; `Infinity` and `-Infinity` are elements of
/// any column of floats. JSON has only the first of these words, but there are clients that write them all.
pub fn decode_rows(
    text: &[u8],
    specs: &[ColumnSpec],
    rows_max: usize,
) -> Result<(Batch, RowForm), JsonError> {
    let mut scanner = Scanner::new(text);
    let mut columns = Columns::new(specs, UnknownColumns::Refused);
    let form = match scanner.peek() {
        Some(b'{') => {
            take_object(&mut scanner, &mut columns, rows_max)?;
            RowForm::Object
        }
        Some(b'[') => {
            take_list(&mut scanner, &mut columns, rows_max)?;
            RowForm::List
        }
        _ => return Err(JsonError::new(scanner.unexpected("an object or a list of objects"))),
    };
    scanner.end().map_err(JsonError::new)?;
    Ok((columns.finish()?, form))
}

/// Takes a list of objects.
pub(super) fn take_list(
    scanner: &mut Scanner<'_>,
    columns: &mut Columns<'_>,
    rows_max: usize,
) -> Result<(), JsonError> {
    scanner.expect(b'[').map_err(JsonError::new)?;
    if scanner.peek() == Some(b']') {
        return Err(JsonError::new("expected at least one row, found an empty list"));
    }
    loop {
        take_object(scanner, columns, rows_max)?;
        if !scanner.more(b']').map_err(JsonError::new)? {
            return Ok(());
        }
    }
}

fn take_object(
    scanner: &mut Scanner<'_>,
    columns: &mut Columns<'_>,
    rows_max: usize,
) -> Result<(), JsonError> {
    let row = columns.begin_row(rows_max)?;
    let in_row = |message| JsonError::in_row(message, row);
    if scanner.peek() != Some(b'{') {
        return Err(in_row(scanner.unexpected("an object")));
    }
    scanner.expect(b'{').map_err(in_row)?;
    let mut next = 0;
    let mut more = !scanner.take(b'}');
    while more {
        let Some(name) = scanner.string().map_err(in_row)? else {
            return Err(in_row(scanner.unexpected("a column's name")));
        };
        scanner.expect(b':').map_err(in_row)?;
        // Most programs write the fields of each row in the same order.
        let guess = columns.spec(next).is_some_and(|spec| spec.name == name);
        match if guess { Some(next) } else { columns.find_in_row(&name)? } {
            Some(index) => {
                columns.take(index, scanner)?;
                next = index + 1;
            }
            None => scanner.skip().map_err(in_row)?,
        }
        more = scanner.more(b'}').map_err(in_row)?;
    }
    columns.end_row()
}

impl<'a> Columns<'a> {
    /// The columns `specs`, without rows.
    pub(super) fn new(specs: &'a [ColumnSpec], unknown: UnknownColumns) -> Self {
        let column = |spec| Column { spec, data: Vec::new(), rows: 0 };
        Self { columns: specs.iter().map(column).collect(), rows: 0, unknown }
    }

    /// What a column should be.
    pub(super) fn spec(&self, column: usize) -> Option<&'a ColumnSpec> {
        self.columns.get(column).map(|column| column.spec)
    }

    /// Which column has a name; none if it is to be ignored.
    pub(super) fn find(&self, name: &str) -> Result<Option<usize>, JsonError> {
        self.find_at(name, None)
    }

    fn find_in_row(&self, name: &str) -> Result<Option<usize>, JsonError> {
        self.find_at(name, Some(self.rows))
    }

    fn find_at(&self, name: &str, row: Option<usize>) -> Result<Option<usize>, JsonError> {
        match self.columns.iter().position(|column| column.spec.name == name) {
            None if self.unknown == UnknownColumns::Refused => Err(self.unknown_column(name, row)),
            found => Ok(found),
        }
    }

    /// Which columns have these names, among which must be all columns, each once; none for what is to be ignored.
    pub(super) fn order<'n>(
        &self,
        names: impl Iterator<Item = &'n str>,
    ) -> Result<Vec<Option<usize>>, JsonError> {
        let mut order = Vec::new();
        let mut is_there = vec![false; self.columns.len()];
        for name in names {
            let column = self.find(name)?;
            if let Some(is_there) = column.and_then(|column| is_there.get_mut(column))
                && std::mem::replace(is_there, true)
            {
                return Err(JsonError::in_column("appears twice", None, name));
            }
            order.push(column);
        }
        match self.columns.iter().zip(&is_there).find(|(_, is_there)| !**is_there) {
            Some((missing, _)) => Err(JsonError::in_column("is missing", None, &missing.spec.name)),
            None => Ok(order),
        }
    }

    /// Begins a row, and gives its number.
    pub(super) fn begin_row(&mut self, rows_max: usize) -> Result<usize, JsonError> {
        if self.rows == rows_max {
            return Err(JsonError::new(format!("expected at most {rows_max} rows, found more")));
        }
        Ok(self.rows)
    }

    /// Takes the row's elements of a column.
    pub(super) fn take(&mut self, column: usize, scanner: &mut Scanner<'_>) -> Result<(), JsonError> {
        let row = self.rows;
        let Some(Column { spec, data, rows }) = self.columns.get_mut(column) else { return Ok(()) };
        if *rows > row {
            return Err(JsonError::in_column("appears twice in this row", Some(row), &spec.name));
        }
        take_row(scanner, spec, data).map_err(|wrong| JsonError::in_column(wrong, Some(row), &spec.name))?;
        *rows = row + 1;
        Ok(())
    }

    /// What is wrong in a column of the row that was begun.
    pub(super) fn within<T>(&self, column: usize, found: Result<T, Wrong>) -> Result<T, JsonError> {
        let name = self.spec(column).map_or("", |spec| spec.name.as_str());
        found.map_err(|wrong| JsonError::in_column(wrong, Some(self.rows), name))
    }

    /// Ends a row, which must have all columns.
    pub(super) fn end_row(&mut self) -> Result<(), JsonError> {
        let row = self.rows;
        self.rows += 1;
        match self.columns.iter().find(|column| column.rows <= row) {
            Some(missing) => Err(JsonError::in_column("is missing", Some(row), &missing.spec.name)),
            None => Ok(()),
        }
    }

    /// Takes all `rows` rows of a column.
    pub(super) fn take_whole(
        &mut self,
        column: usize,
        rows: usize,
        take: impl FnOnce(&ColumnSpec, &mut Vec<u8>) -> Result<(), WrongInRow>,
    ) -> Result<(), JsonError> {
        let Some(Column { spec, data, rows: present }) = self.columns.get_mut(column) else { return Ok(()) };
        if *present > 0 {
            return Err(JsonError::in_column("appears twice", None, &spec.name));
        }
        take(spec, data).map_err(|(row, wrong)| JsonError::in_column(wrong, row, &spec.name))?;
        *present = rows;
        self.rows = rows;
        Ok(())
    }

    /// The batch, which must have a row.
    pub(super) fn finish(self) -> Result<Batch, JsonError> {
        if self.rows == 0 {
            return Err(JsonError::new("expected at least one row, found none"));
        }
        let tensors = self.columns.into_iter().map(|column| {
            let shape = [column.rows].into_iter().chain(column.spec.shape.iter().copied()).collect();
            let tensor = Tensor::new(column.spec.name.clone(), column.spec.dtype, shape, column.data);
            tensor.map_err(|error| JsonError::new(error.to_string()))
        });
        Batch::new(tensors.collect::<Result<_, _>>()?).map_err(|error| JsonError::new(error.to_string()))
    }

    /// The batch of columns that were taken whole, each of which must be there.
    pub(super) fn finish_whole(self) -> Result<Batch, JsonError> {
        match self.columns.iter().find(|column| column.rows == 0) {
            Some(missing) => Err(JsonError::in_column("is missing", None, &missing.spec.name)),
            None => self.finish(),
        }
    }

    fn unknown_column(&self, name: &str, row: Option<usize>) -> JsonError {
        let known: Vec<_> =
            self.columns.iter().take(10).map(|column| format!("`{}`", column.spec.name)).collect();
        let more = if self.columns.len() > known.len() { ", …" } else { "" };
        let name: String = name.chars().take(80).collect();
        JsonError::in_column(format!("is unknown: expected {}{more}", known.join(", ")), row, &name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::DataType;

    fn spec(name: &str, dtype: DataType, shape: &[usize]) -> ColumnSpec {
        let nullable = matches!(dtype, DataType::Fp64);
        ColumnSpec {
            name: name.to_owned(),
            dtype,
            shape: shape.to_vec(),
            nullable,
            element_names: Vec::new(),
        }
    }

    fn decode(text: &str, specs: &[ColumnSpec]) -> Result<Batch, String> {
        decode_rows(text.as_bytes(), specs, 3).map(|(batch, _)| batch).map_err(|error| error.to_string())
    }

    fn pixels() -> [ColumnSpec; 1] {
        [spec("pixels", DataType::Uint8, &[2, 3])]
    }

    #[test]
    fn takes_nested_and_flat_rows_alike() {
        let flat = decode(r#"{"pixels": [1, 2, 3, 4, 5, 255]}"#, &pixels()).unwrap();
        assert_eq!(flat.tensors()[0].shape(), [1, 2, 3]);
        assert_eq!(flat.tensors()[0].data(), [1, 2, 3, 4, 5, 255]);
        assert_eq!(decode(r#"{"pixels":[[1,2,3],[4,5,255]]}"#, &pixels()).unwrap(), flat);
        let (list, form) = decode_rows(br#"[{"pixels":[[1,2,3],[4,5,255]]}]"#, &pixels(), 1).unwrap();
        assert_eq!((list, form), (flat, RowForm::List));
    }

    #[test]
    fn takes_columns_in_any_order() {
        let specs = [
            spec("a", DataType::Fp32, &[]),
            spec("b", DataType::Bytes, &[]),
            spec("c", DataType::Bool, &[1]),
        ];
        let batch =
            decode(r#"[{"a":1.5,"b":"x","c":true},{"c":[false],"b":"\u00e4","a":[-2e-3]}]"#, &specs).unwrap();
        assert_eq!(batch.column("a").unwrap().as_f32().unwrap().as_ref(), [1.5, -2e-3]);
        assert_eq!(
            batch.column("b").unwrap().byte_strings().collect::<Vec<_>>(),
            [&b"x"[..], "ä".as_bytes()]
        );
        assert_eq!(batch.column("c").unwrap().data(), [1, 0]);
    }

    #[test]
    fn says_which_row_and_column_is_wrong() {
        let long = format!(r#"{{"pixels":[{}]}}"#, ["0"; 783].join(","));
        let image = [spec("pixels", DataType::Uint8, &[28, 28])];
        let error = decode_rows(long.as_bytes(), &image, 1).unwrap_err();
        assert_eq!(error.to_string(), "row 0, column `pixels`: expected 784 values (28 × 28), found 783");
        assert_eq!((error.row(), error.column()), (Some(0), Some("pixels")));
        let good = r#"{"pixels":[0,0,0,0,0,0]}"#;
        let cases = [
            (r#"{"pixels":[0,0,0]}"#, "row 0, column `pixels`: expected 6 values (2 × 3), found 3"),
            (r#"{"pixels":[0,0,0,0,0,0,0]}"#, "row 0, column `pixels`: expected 6 values (2 × 3), found 7"),
            (r#"{"pixels":[]}"#, "row 0, column `pixels`: expected 6 values (2 × 3), found 0"),
            (r#"{"pixels":5}"#, "row 0, column `pixels`: expected a list of 6 values (2 × 3), found `5`"),
            (r#"{"pixels":[[0,0,0]]}"#, "row 0, column `pixels`: expected 2 lists, found 1"),
            (r#"{"pixels":[[0,0,0],[0,0]]}"#, "row 0, column `pixels`: list 1: expected 3 values, found 2"),
            (r#"{"pixels":[[0],[0,0,0,0,0]]}"#, "row 0, column `pixels`: list 0: expected 3 values, found 1"),
            (r#"{"pixels":[[0,0,0],[0,0,0],[]]}"#, "row 0, column `pixels`: expected 2 lists, found more"),
            (
                r#"{"pixels":[[[0,0,0]]]}"#,
                "row 0, column `pixels`: list 0: list 0: expected 1 value, found 3",
            ),
            (
                r#"{"pixels":[0,256]}"#,
                "row 0, column `pixels`: element 1: expected UINT8 (0 to 255), found `256`",
            ),
            (
                r#"{"pixels":[-1]}"#,
                "row 0, column `pixels`: element 0: expected UINT8 (0 to 255), found `-1`",
            ),
            (
                r#"{"pixels":[1.5]}"#,
                "row 0, column `pixels`: element 0: expected UINT8 (0 to 255), found `1.5`",
            ),
            (
                r#"{"pixels":["1"]}"#,
                "row 0, column `pixels`: element 0: expected UINT8 (0 to 255), found a string",
            ),
            (
                r#"{"pixels":[null]}"#,
                "row 0, column `pixels`: element 0: expected UINT8 (0 to 255), found `null`",
            ),
            (
                r#"{"pixels":null}"#,
                "row 0, column `pixels`: expected a list of 6 values (2 × 3), found `null`",
            ),
            (r#"{"pixel":[0]}"#, "row 0, column `pixel`: is unknown: expected `pixels`"),
            (r#"{}"#, "row 0, column `pixels`: is missing"),
            ("[{}]", "row 0, column `pixels`: is missing"),
            ("[]", "expected at least one row, found an empty list"),
            ("5", "expected an object or a list of objects, found `5`"),
            ("[5]", "row 0: expected an object, found `5`"),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text, &pixels()).unwrap_err(), expected, "{text}");
        }
        let second = format!(r#"[{good},{{"pixels":[0]}}]"#);
        assert_eq!(
            decode(&second, &pixels()).unwrap_err(),
            "row 1, column `pixels`: expected 6 values (2 × 3), found 1"
        );
        let twice = r#"{"pixels":[0,0,0,0,0,0],"pixels":[0,0,0,0,0,0]}"#;
        assert_eq!(
            decode(twice, &pixels()).unwrap_err(),
            "row 0, column `pixels`: appears twice in this row"
        );
        let many = format!("[{}]", [good; 4].join(","));
        assert_eq!(decode(&many, &pixels()).unwrap_err(), "expected at most 3 rows, found more");
    }

    #[test]
    fn says_where_text_is_not_json() {
        let cases = [
            ("", "not JSON at byte 0: expected an object or a list of objects, found the end"),
            ("{", "row 0: not JSON at byte 1: expected a column's name, found the end"),
            (r#"{"pixels"}"#, "row 0: not JSON at byte 9: expected `:`, found `}`"),
            (
                r#"{"pixels":[NaN]}"#,
                "row 0, column `pixels`: element 0: not JSON at byte 11: expected UINT8 (0 to 255), found `NaN`",
            ),
            (
                r#"{"pixels":[01]}"#,
                "row 0, column `pixels`: element 0: not JSON at byte 11: expected a number, found `01`",
            ),
            (r#"{"pixels":[1 2]}"#, "row 0, column `pixels`: expected `,` or `]`, found `2`"),
            (
                r#"{"pixels":[1,]}"#,
                "row 0, column `pixels`: element 1: not JSON at byte 13: expected UINT8 (0 to 255), found `]`",
            ),
            (
                r#"{"pixels":[0,0,0,0,0,0],}"#,
                "row 0: not JSON at byte 24: expected a column's name, found `}`",
            ),
            (r#"{"pixels":[0,0,0,0,0,0]} x"#, "not JSON at byte 25: expected the end, found `x`"),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text, &pixels()).unwrap_err(), expected, "{text}");
        }
    }

    #[test]
    fn only_nullable_floats_can_be_missing() {
        let nullable = [spec("x", DataType::Fp64, &[])];
        assert!(decode(r#"{"x":null}"#, &nullable).unwrap().tensors()[0].to_f64().unwrap()[0].is_nan());
        let strict = [spec("x", DataType::Fp32, &[])];
        assert_eq!(
            decode(r#"{"x":null}"#, &strict).unwrap_err(),
            "row 0, column `x`: expected FP32, found `null`"
        );
        assert_eq!(
            decode(r#"{"x":1e39}"#, &strict).unwrap_err(),
            "row 0, column `x`: expected FP32, found `1e39`"
        );
        assert!(decode(r#"{"x":1e999}"#, &nullable).is_err());
    }

    #[test]
    fn floats_that_json_has_no_word_for_are_taken_as_python_writes_them() {
        let floats = |dtype, nullable| [ColumnSpec { nullable, ..spec("x", dtype, &[4]) }];
        let text = r#"{"x":[1, NaN, Infinity, -Infinity]}"#;
        for dtype in [DataType::Fp16, DataType::Fp32, DataType::Fp64] {
            let batch = decode(text, &floats(dtype, true)).unwrap();
            let values = batch.tensors()[0].number_blocks(4).next().unwrap().to_vec();
            assert!(values[1].is_nan());
            assert_eq!([values[0], values[2], values[3]], [1.0, f64::INFINITY, f64::NEG_INFINITY]);
            let told = decode(text, &floats(dtype, false)).unwrap_err();
            assert!(told.starts_with("row 0, column `x`: element 1: expected FP"), "{told}");
            assert!(told.ends_with("found `NaN`"), "{told}");
            assert!(decode(r#"{"x":[Infinity,-Infinity,0,1]}"#, &floats(dtype, false)).is_ok());
        }
        for word in ["nan", "inf", "-NaN", "+Infinity", "Infinity0", "- Infinity", "-Inf"] {
            let text = format!(r#"{{"x":[1,2,3,{word}]}}"#);
            assert!(decode(&text, &floats(DataType::Fp64, true)).unwrap_err().contains("not JSON"), "{word}");
        }
        let text = r#"{"x":[1,2,3,Infinity]}"#;
        assert!(decode(text, &[spec("x", DataType::Int64, &[4])]).unwrap_err().contains("not JSON"));
    }

    #[test]
    fn whole_numbers_that_a_float_leaves_out_keep_their_place() {
        for (dtype, large) in [(DataType::Fp32, 16_777_217_u64), (DataType::Fp64, (1 << 53) + 1)] {
            let specs = [spec("x", dtype, &[3])];
            let batch = decode(&format!(r#"{{"x":[{large},2,{large}]}}"#), &specs).unwrap();
            let rounded = if dtype == DataType::Fp32 { f64::from(large as f32) } else { large as f64 };
            assert_eq!(batch.tensors()[0].to_f64().unwrap(), [rounded, 2.0, rounded]);
        }
        let half = [spec("x", DataType::Fp16, &[3])];
        let batch = decode(r#"{"x":[2049,2,65504]}"#, &half).unwrap();
        assert_eq!(batch.tensors()[0].number_blocks(3).next().unwrap(), [2_048.0, 2.0, 65_504.0]);
        let error = decode(r#"{"x":[1,65520,2]}"#, &half).unwrap_err();
        assert_eq!(error, "row 0, column `x`: element 1: expected FP16 (-65504 to 65504), found `65520`");
    }

    #[test]
    fn integers_keep_every_digit() {
        let specs = [spec("x", DataType::Int64, &[])];
        let value = |text: &str| {
            let batch = decode(&format!(r#"{{"x":{text}}}"#), &specs)?;
            Ok::<_, String>(i64::from_le_bytes(batch.tensors()[0].data().try_into().unwrap()))
        };
        assert_eq!(value("9223372036854775807").unwrap(), i64::MAX);
        assert_eq!(value("-9223372036854775808").unwrap(), i64::MIN);
        assert_eq!(value("-0").unwrap(), 0);
        assert_eq!(value("5.0").unwrap(), 5);
        assert_eq!(value("1e3").unwrap(), 1_000);
        assert!(value("9223372036854775808").is_err());
        assert!(value("0.5").is_err());
        let unsigned = [spec("x", DataType::Uint64, &[])];
        let batch = decode(r#"{"x":18446744073709551615}"#, &unsigned).unwrap();
        assert_eq!(batch.tensors()[0].data(), [255; 8]);
    }

    #[test]
    fn a_shape_larger_than_the_text_takes_no_memory() {
        let specs = [spec("x", DataType::Fp64, &[1 << 40])];
        assert_eq!(
            decode(r#"{"x":[1,2]}"#, &specs).unwrap_err(),
            "row 0, column `x`: expected 1099511627776 values, found 2"
        );
        let deep = format!(r#"{{"x":{}"#, "[".repeat(1_000_000));
        assert!(decode(&deep, &specs).is_err());
    }

    proptest::proptest! {
        #[test]
        fn reads_what_serde_json_writes(rows in proptest::collection::vec((proptest::num::f64::NORMAL, proptest::num::f32::NORMAL, i64::MIN..=i64::MAX, ".*", proptest::bool::ANY), 1..4), pretty: bool) {
            let values: Vec<_> = rows.iter().map(|(a, b, c, d, e)| serde_json::json!({"a": a, "b": b, "c": c, "d": d, "e": e})).collect();
            let text = if pretty { serde_json::to_vec_pretty(&values) } else { serde_json::to_vec(&values) }.unwrap();
            let specs = [spec("a", DataType::Fp64, &[]), spec("b", DataType::Fp32, &[]), spec("c", DataType::Int64, &[]), spec("d", DataType::Bytes, &[]), spec("e", DataType::Bool, &[])];
            let (batch, _) = decode_rows(&text, &specs, 4).unwrap();
            let [a, b, c, d, e] = batch.tensors() else { panic!("five columns") };
            proptest::prop_assert_eq!(a.to_f64().unwrap(), rows.iter().map(|row| row.0).collect::<Vec<_>>());
            proptest::prop_assert_eq!(b.as_f32().unwrap().into_owned(), rows.iter().map(|row| row.1).collect::<Vec<_>>());
            proptest::prop_assert_eq!(c.data(), rows.iter().flat_map(|row| row.2.to_le_bytes()).collect::<Vec<_>>());
            proptest::prop_assert_eq!(d.byte_strings().collect::<Vec<_>>(), rows.iter().map(|row| row.3.as_bytes()).collect::<Vec<_>>());
            proptest::prop_assert_eq!(e.data(), rows.iter().map(|row| u8::from(row.4)).collect::<Vec<_>>());
        }

        #[test]
        fn takes_no_text_that_serde_json_refuses(text in "([\\[\\]{}:,\"a0-9.eE+ tn-]|NaN|Infinity|-Infinity){0,24}") {
            let specs = [spec("a", DataType::Fp64, &[2])];
            for text in [text.clone(), format!("{{\"a\":{text}}}"), format!("{{\"a\":[{text}]}}")] {
                if decode_rows(text.as_bytes(), &specs, 3).is_ok() {
                    // JSON has no other words where these may stand.
                    let json = text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
                    proptest::prop_assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{}", text);
                }
            }
        }
    }
}
