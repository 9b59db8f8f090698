use std::collections::HashMap;

use proptest::prelude::*;

use super::super::messages::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::super::messages::{InferTensorContents, ModelInferRequest};
use super::*;
use crate::domain::DataType;

const ROWS_MAX: usize = 8;

fn spec(name: &str, dtype: DataType, shape: &[usize]) -> ColumnSpec {
    ColumnSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        nullable: false,
        element_names: Vec::new(),
    }
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.to_owned(),
        datatype: datatype.to_owned(),
        shape: shape.to_vec(),
        ..InferInputTensor::default()
    }
}

fn request(inputs: Vec<InferInputTensor>, raw: &[&[u8]]) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".to_owned(),
        inputs,
        raw_input_contents: raw.iter().map(|raw| raw.to_vec()).collect(),
        ..ModelInferRequest::default()
    }
}

fn decoded(request: &ModelInferRequest, specs: &[ColumnSpec]) -> Result<InferenceRequest, String> {
    decode_infer_request(&request.encode_to_vec(), specs, ROWS_MAX)
        .map_err(|error| error.message().to_owned())
}

fn error(request: &ModelInferRequest, specs: &[ColumnSpec]) -> String {
    decoded(request, specs).unwrap_err()
}

/// Two elements of a type: as a tensor holds them, and as the lists hold them.
fn samples() -> Vec<(DataType, Vec<u8>, InferTensorContents)> {
    let none = InferTensorContents::default;
    let int = |values: [i32; 2]| InferTensorContents { int_contents: values.to_vec(), ..none() };
    let uint = |values: [u32; 2]| InferTensorContents { uint_contents: values.to_vec(), ..none() };
    macro_rules! bytes {
        ($($value:expr),*) => { [$($value.to_le_bytes().to_vec()),*].concat() };
    }
    vec![
        (DataType::Bool, vec![1, 0], InferTensorContents { bool_contents: vec![true, false], ..none() }),
        (DataType::Int8, bytes!(-128_i8, 127_i8), int([-128, 127])),
        (DataType::Int16, bytes!(i16::MIN, i16::MAX), int([-32_768, 32_767])),
        (DataType::Int32, bytes!(i32::MIN, i32::MAX), int([i32::MIN, i32::MAX])),
        (
            DataType::Int64,
            bytes!(i64::MIN, i64::MAX),
            InferTensorContents { int64_contents: vec![i64::MIN, i64::MAX], ..none() },
        ),
        (DataType::Uint8, vec![0, 255], uint([0, 255])),
        (DataType::Uint16, bytes!(0_u16, u16::MAX), uint([0, 65_535])),
        (DataType::Uint32, bytes!(0_u32, u32::MAX), uint([0, u32::MAX])),
        (
            DataType::Uint64,
            bytes!(0_u64, u64::MAX),
            InferTensorContents { uint64_contents: vec![0, u64::MAX], ..none() },
        ),
        (
            DataType::Fp32,
            bytes!(-0.0_f32, f32::INFINITY),
            InferTensorContents { fp32_contents: vec![-0.0, f32::INFINITY], ..none() },
        ),
        (
            DataType::Fp64,
            bytes!(0.1_f64, f64::MIN),
            InferTensorContents { fp64_contents: vec![0.1, f64::MIN], ..none() },
        ),
        (
            DataType::Bytes,
            b"\0\0\0\0\x02\0\0\0\xff\0".to_vec(),
            InferTensorContents { bytes_contents: vec![Vec::new(), vec![0xff, 0]], ..none() },
        ),
    ]
}

#[test]
fn elements_of_every_type_are_taken_raw_and_typed() {
    let mut all = samples();
    all.push((DataType::Fp16, vec![0, 0x3c, 0, 0xc0], InferTensorContents::default()));
    assert_eq!(all.len(), DataType::ALL.len());
    for (dtype, bytes, contents) in all {
        for (shape, found) in [(&[][..], vec![2]), (&[2][..], vec![1, 2]), (&[1][..], vec![2, 1])] {
            let specs = [spec("x", dtype, shape)];
            let raw = input("x", dtype.as_str(), &found);
            let typed = InferInputTensor { contents: Some(contents.clone()), ..raw.clone() };
            let from_raw = decoded(&request(vec![raw], &[&bytes]), &specs).unwrap().inputs;
            assert_eq!(from_raw.column("x").unwrap().data(), bytes, "{dtype}");
            let from_typed = decoded(&request(vec![typed], &[]), &specs);
            match dtype {
                DataType::Fp16 => assert!(from_typed.is_err()),
                _ => assert_eq!(from_typed.unwrap().inputs, from_raw, "{dtype}"),
            }
        }
    }
}

#[test]
fn lists_may_come_in_pieces_and_one_by_one() {
    let specs = [spec("x", DataType::Int8, &[])];
    let head = input("x", "INT8", &[4]).encode_to_vec();
    // Contents of 10 bytes: 1 alone, a list of 2 and −1, an empty list, 4 alone.
    let contents = [
        b"\x10\x01".as_slice(),
        b"\x12\x0b\x02\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x12\0",
        b"\x10\x04",
    ];
    let contents = contents.concat();
    let input = [head, vec![0x2a, contents.len() as u8], contents].concat();
    let message = [vec![0x2a, input.len() as u8], input].concat();
    let decoded = decode_infer_request(&message, &specs, ROWS_MAX).unwrap();
    assert_eq!(decoded.inputs.column("x").unwrap().data(), [1, 2, 255, 4]);
}

#[test]
fn columns_come_in_any_order_with_what_is_asked_for() {
    let specs = [spec("a", DataType::Uint8, &[]), spec("b", DataType::Fp32, &[2])];
    let class = InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(3)) };
    let output = |name: &str, parameters| InferRequestedOutputTensor { name: name.to_owned(), parameters };
    let whole = ModelInferRequest {
        model_version: "4".to_owned(),
        id: "mine".to_owned(),
        outputs: vec![
            output("q", HashMap::from([("classification".to_owned(), class)])),
            output("p", HashMap::new()),
        ],
        parameters: HashMap::from([("priority".to_owned(), InferParameter { parameter_choice: None })]),
        ..request(vec![input("b", "FP32", &[2, 2]), input("a", "UINT8", &[2])], &[&[0; 16], &[7, 8]])
    };
    let message = whole.encode_to_vec();
    let head = InferHead::read(&message).unwrap();
    assert_eq!((head.model_name, head.model_version, head.id), ("m", "4", "mine"));
    let decoded = decoded(&whole, &specs).unwrap();
    assert_eq!(decoded.inputs.tensors()[0].data(), [7, 8]);
    assert_eq!(decoded.id.as_deref(), Some("mine"));
    let asked = |name: &str, classes| RequestedOutput { name: name.to_owned(), form: None, classes };
    let expected = OutputSelection::new(vec![asked("q", 3), asked("p", 0)], OutputForm::Binary).unwrap();
    assert_eq!(decoded.outputs, expected);
}

#[test]
fn shapes_that_lie_are_refused_before_anything_is_made() {
    let specs = [spec("x", DataType::Fp32, &[2])];
    let refused =
        |shape: &[i64], raw: &[u8]| error(&request(vec![input("x", "FP32", shape)], &[raw]), &specs);
    let max = i64::MAX;
    for (shape, raw, expected) in [
        (&[-1, 2][..], 8, "column `x`: dimension 0: expected a size, found -1".to_owned()),
        (&[1, i64::MIN], 8, format!("column `x`: dimension 1: expected a size, found {}", i64::MIN)),
        (&[max, 2], 8, format!("expected at most 8 rows, found {max}")),
        (&[1, max], 8, format!("column `x`: expected rows of 2, found {max}")),
        (&[9, 2], 72, "expected at most 8 rows, found 9".to_owned()),
        (&[0, 2], 0, "expected at least one row, found none".to_owned()),
        (&[], 0, "column `x` has no dimensions: expected at least one, the row".to_owned()),
        (&[1; 65], 4, "column `x`: expected at most 64 dimensions, found more".to_owned()),
        (&[2], 8, "column `x`: expected rows of 2, found one element".to_owned()),
        (&[2, 2], 12, "column `x` of shape [2, 2] and type FP32: expected 16 bytes, found 12".to_owned()),
        (&[2, 2], 20, "column `x` of shape [2, 2] and type FP32: expected 16 bytes, found 20".to_owned()),
    ] {
        assert_eq!(refused(shape, &vec![0; raw]), expected, "{shape:?}");
    }
}

#[test]
fn elements_are_in_one_place_and_as_many_as_the_shape_says() {
    let specs = [spec("x", DataType::Int8, &[2])];
    let typed = |values: &[i32]| InferInputTensor {
        contents: Some(InferTensorContents {
            int_contents: values.to_vec(),
            ..InferTensorContents::default()
        }),
        ..input("x", "INT8", &[2, 2])
    };
    let refused = |input, raw: &[&[u8]]| error(&request(vec![input], raw), &specs);
    let bare = || input("x", "INT8", &[2, 2]);
    for (found, expected) in [
        (
            refused(typed(&[1, 2, 3, 4]), &[&[0; 4]]),
            "column `x`: expected its elements in `contents` or `raw_input_contents`, found both",
        ),
        (
            refused(bare(), &[]),
            "column `x`: expected its elements in `contents` or `raw_input_contents`, found neither",
        ),
        (
            refused(bare(), &[&[0; 4], &[0; 4]]),
            "expected as many `raw_input_contents` as there are inputs, which is 1, found 2",
        ),
        (refused(typed(&[1, 2, 3]), &[]), "column `x`: expected 4 elements, found 3"),
        (refused(typed(&[1, 2, 3, 4, 5, 6]), &[]), "column `x`: expected 4 elements, found 5"),
        (refused(typed(&[1, 2, 3, 128]), &[]), "row 1, column `x`: expected INT8, found 128"),
        (refused(typed(&[-129, 2, 3, 4]), &[]), "row 0, column `x`: expected INT8, found -129"),
    ] {
        assert_eq!(found, expected);
    }
    let floats = InferTensorContents { fp32_contents: vec![0.0; 4], ..InferTensorContents::default() };
    assert_eq!(
        refused(InferInputTensor { contents: Some(floats.clone()), ..bare() }, &[]),
        "column `x` is INT8: expected its elements in `int_contents`, found some in another list"
    );
    let half = InferInputTensor { contents: Some(floats), ..input("x", "FP16", &[2, 2]) };
    assert_eq!(
        error(&request(vec![half], &[]), &[spec("x", DataType::Fp16, &[2])]),
        "column `x` is FP16: expected its elements in `raw_input_contents`, found them in `contents`"
    );
    let nan = InferTensorContents { fp64_contents: vec![0.0, f64::NAN], ..InferTensorContents::default() };
    let nan = InferInputTensor { contents: Some(nan), ..input("x", "FP64", &[2]) };
    assert_eq!(
        error(&request(vec![nan], &[]), &[spec("x", DataType::Fp64, &[])]),
        "row 1, column `x`: expected a number, found NaN"
    );
}

#[test]
fn inputs_are_the_columns_each_once() {
    let specs = [spec("x", DataType::Uint8, &[]), spec("y", DataType::Uint8, &[])];
    let refused = |names: &[&str]| {
        let raw = vec![&[0_u8][..]; names.len()];
        error(&request(names.iter().map(|name| input(name, "UINT8", &[1])).collect(), &raw), &specs)
    };
    assert_eq!(refused(&["x"]), "column `y` is missing");
    assert_eq!(refused(&[]), "column `x` is missing");
    assert!(refused(&["x", "x"]).contains("column `x`"), "{}", refused(&["x", "x"]));
    assert_eq!(refused(&["x", "z"]), "column `z` is unknown: expected `x`, `y`");
    assert!(refused(&["x", "y", "x"]).contains("column `x`"));
    assert!(refused(&vec!["x"; 1_000]).contains("column `x`"));
    let wrong = request(vec![input("x", "INT8", &[1]), input("y", "UINT8", &[1])], &[&[0], &[0]]);
    assert_eq!(error(&wrong, &specs), "column `x`: expected UINT8, found INT8");
    let wrong = request(vec![input("x", "BF16", &[1]), input("y", "UINT8", &[1])], &[&[0, 0], &[0]]);
    assert!(error(&wrong, &specs).starts_with("column `x`: `BF16` is not a data type"));
    let uneven = request(vec![input("x", "UINT8", &[1]), input("y", "UINT8", &[2])], &[&[0], &[0, 0]]);
    assert!(error(&uneven, &specs).contains("`y`"));
}

#[test]
fn parameters_that_ask_for_what_is_not_there_are_refused() {
    let specs = [spec("x", DataType::Uint8, &[])];
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    let region = parameter(ParameterChoice::StringParam("r".to_owned()));
    let shared = HashMap::from([("shared_memory_region".to_owned(), region)]);
    let input = InferInputTensor { parameters: shared.clone(), ..input("x", "UINT8", &[1]) };
    let expected = "`shared_memory_region` is not supported: expected the elements themselves";
    assert_eq!(error(&request(vec![input.clone()], &[]), &specs), expected);
    let asking = |parameters: HashMap<String, InferParameter>| {
        let outputs = vec![InferRequestedOutputTensor { name: "p".to_owned(), parameters }];
        let input = InferInputTensor { parameters: HashMap::new(), ..input.clone() };
        error(&ModelInferRequest { outputs, ..request(vec![input], &[&[0]]) }, &specs)
    };
    assert_eq!(asking(shared), expected);
    for choice in [ParameterChoice::Int64Param(-1), ParameterChoice::StringParam("3".to_owned())] {
        assert_eq!(
            asking(HashMap::from([("classification".to_owned(), parameter(choice))])),
            "output `p`: `classification`: expected a number of classes, found another value"
        );
    }
}

#[test]
fn what_could_grow_without_end_has_a_limit() {
    let specs = [spec("x", DataType::Uint8, &[])];
    let small = || request(vec![input("x", "UINT8", &[1])], &[&[0]]);
    let long = ModelInferRequest { id: "i".repeat(1_025), ..small() };
    assert_eq!(error(&long, &specs), "`id`: expected at most 1024 bytes, found 1025");
    let outputs = vec![InferRequestedOutputTensor { name: "p".to_owned(), ..Default::default() }; 300];
    assert_eq!(
        error(&ModelInferRequest { outputs, ..small() }, &specs),
        "expected at most 256 outputs, found more"
    );
    // Two bytes each, which are an input without anything.
    let empty = b"\x2a\0".repeat(65_537);
    assert_eq!(
        InferHead::read(&empty).unwrap_err().to_string(),
        "expected at most 65536 fields in a request, found more"
    );
    assert!(decode_infer_request(&empty, &specs, ROWS_MAX).is_err());
}

proptest! {
    #[test]
    fn no_bytes_are_more_than_refused(bytes: Vec<u8>) {
        let specs = [spec("x", DataType::Uint8, &[])];
        let _ = InferHead::read(&bytes);
        let _ = decode_infer_request(&bytes, &specs, ROWS_MAX);
    }

    #[test]
    fn no_change_of_a_request_is_more_than_refused(place: prop::sample::Index, byte: u8, cut: prop::sample::Index) {
        let specs = [spec("x", DataType::Bytes, &[]), spec("y", DataType::Int16, &[2])];
        let typed = InferTensorContents { int_contents: vec![1, -2, 3, 4], ..InferTensorContents::default() };
        let strings = InferTensorContents { bytes_contents: vec![vec![1], vec![2; 9]], ..InferTensorContents::default() };
        let inputs = vec![
            InferInputTensor { contents: Some(strings), ..input("x", "BYTES", &[2]) },
            InferInputTensor { contents: Some(typed), ..input("y", "INT16", &[2, 2]) },
        ];
        let mut message = request(inputs, &[]).encode_to_vec();
        prop_assert!(decode_infer_request(&message, &specs, ROWS_MAX).is_ok());
        let place = place.index(message.len());
        message[place] = byte;
        let _ = decode_infer_request(&message, &specs, ROWS_MAX);
        message.truncate(cut.index(message.len()));
        let _ = decode_infer_request(&message, &specs, ROWS_MAX);
    }
}

#[test]
fn strings_are_bytes_as_base64_where_the_input_says_so() {
    let specs = [spec("s", DataType::Bytes, &[])];
    let texts = ["iVBORw==", "?"];
    let asked = |rows: &[&str], content_type: &str| {
        let string = ParameterChoice::StringParam(content_type.to_owned());
        let parameters =
            [("content_type".to_owned(), InferParameter { parameter_choice: Some(string) })].into();
        let contents = InferTensorContents {
            bytes_contents: rows.iter().map(|text| text.as_bytes().to_vec()).collect(),
            ..InferTensorContents::default()
        };
        let contents = Some(contents);
        let input = InferInputTensor { parameters, contents, ..input("s", "BYTES", &[rows.len() as i64]) };
        decoded(&request(vec![input], &[]), &specs)
    };
    let strings = |request: InferenceRequest| {
        request.inputs.tensors()[0].byte_strings().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    assert_eq!(strings(asked(&texts[..1], "base64").unwrap()), [b"\x89PNG"]);
    assert_eq!(strings(asked(&texts, "str").unwrap()), texts.map(str::as_bytes));
    let error = asked(&texts, "base64").unwrap_err();
    assert_eq!(error, "row 1, column `s`: expected base64, found `?` at byte 0");
}

#[test]
fn a_time_to_wait_is_a_number_of_microseconds() {
    let specs = [spec("x", DataType::Fp32, &[])];
    let asked = |choice: ParameterChoice| {
        let parameters = [("timeout".to_owned(), InferParameter { parameter_choice: Some(choice) })].into();
        let input = request(vec![input("x", "FP32", &[1])], &[&[0; 4]]);
        decoded(&ModelInferRequest { parameters, ..input }, &specs).map(|request| request.timeout)
    };
    assert_eq!(asked(ParameterChoice::Int64Param(0)), Ok(None));
    assert_eq!(asked(ParameterChoice::Int64Param(7)), Ok(Some(Duration::from_micros(7))));
    assert_eq!(asked(ParameterChoice::Uint64Param(u64::MAX)), Ok(Some(Duration::from_micros(u64::MAX))));
    for wrong in [ParameterChoice::Int64Param(-5), ParameterChoice::StringParam("5".to_owned())] {
        let error = asked(wrong).unwrap_err();
        assert_eq!(
            error,
            "`timeout`: expected a whole number of microseconds from 0 on, found another value"
        );
    }
}
