use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::data::json::write_elements;
use crate::domain::DataType;
use crate::serve::inference::{ResponseHead, encode_response};

fn spec(name: &str, dtype: DataType, shape: &[usize]) -> ColumnSpec {
    ColumnSpec {
        name: name.to_owned(),
        dtype,
        shape: shape.to_vec(),
        nullable: false,
        element_names: Vec::new(),
    }
}

fn specs() -> Vec<ColumnSpec> {
    vec![spec("x", DataType::Fp32, &[2]), spec("s", DataType::Bytes, &[])]
}

fn decode(text: &str, binary: &[u8], specs: &[ColumnSpec]) -> Result<InferenceRequest, InferenceError> {
    let body = [text.as_bytes(), binary].concat();
    let header_length = (!binary.is_empty()).then_some(text.len());
    decode_request(&body, header_length, specs, 8)
}

/// The message for a request of one input `x` that has the fields `fields`.
fn input_error(fields: &str, binary: &[u8]) -> String {
    let specs = [spec("x", DataType::Fp32, &[2])];
    decode(&format!(r#"{{"inputs":[{{{fields}}}]}}"#), binary, &specs).unwrap_err().to_string()
}

const X: &str = r#"{"name":"x","datatype":"FP32","shape":[2,2],"data":[1,2,3,4.5]}"#;
const S: &str = r#"{"name":"s","datatype":"BYTES","shape":[2],"data":["a","ä"]}"#;

#[test]
fn reads_what_the_protocol_shows() {
    let text = format!(
        r#"{{"id":"42","model_name":"m","parameters":{{"sequence_id":7,"timeout":null,"mine":[{{}}]}},
            "inputs":[{S},{X}],"outputs":[{{"name":"p","parameters":{{"binary_data":true,"classification":3}}}},{{"name":"q"}}]}}"#
    );
    let request = decode(&text, b"", &specs()).unwrap();
    assert_eq!(request.id.as_deref(), Some("42"));
    let names: Vec<_> = request.inputs.tensors().iter().map(Tensor::name).collect();
    assert_eq!(names, ["x", "s"], "columns are those of the signature, in its order");
    assert_eq!(request.inputs.column("x").unwrap().as_f32().unwrap().as_ref(), [1.0, 2.0, 3.0, 4.5]);
    let strings: Vec<_> = request.inputs.column("s").unwrap().byte_strings().collect();
    assert_eq!(strings, [&b"a"[..], "ä".as_bytes()]);
    let requested = vec![
        RequestedOutput { name: "p".to_owned(), form: Some(OutputForm::Binary), classes: 3 },
        RequestedOutput { name: "q".to_owned(), form: None, classes: 0 },
    ];
    assert_eq!(request.outputs, OutputSelection::new(requested, OutputForm::Json).unwrap());
}

#[test]
fn fields_come_in_any_order_and_null_is_as_good_as_none() {
    let x = r#"{"data":[[1,2],[3,4.5]],"parameters":null,"shape":[2,2],"other":{"a":[1,"]"]},"datatype":"FP32","name":"x"}"#;
    let text = format!(
        r#"{{"outputs":null,"inputs":[{x},{S}],"id":null,"parameters":{{"binary_data_output":true,"a":null}}}}"#
    );
    let request = decode(&text, b"", &specs()).unwrap();
    assert_eq!(request.id, None);
    assert_eq!(request.inputs.column("x").unwrap().as_f32().unwrap().as_ref(), [1.0, 2.0, 3.0, 4.5]);
    assert_eq!(request.outputs, OutputSelection::new(Vec::new(), OutputForm::Binary).unwrap());
}

#[test]
fn binary_data_follows_in_the_order_of_the_inputs() {
    let floats: Vec<u8> =
        [1.0_f32, f32::INFINITY, -0.0, 3.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let strings = b"\x01\0\0\0a\x02\0\0\0\xff\0";
    let input = |name: &str, datatype: &str, shape: &str, size: usize| {
        let parameters = format!(r#""parameters":{{"binary_data_size":{size}}}"#);
        format!(r#"{{"name":"{name}","shape":{shape},"datatype":"{datatype}",{parameters}}}"#)
    };
    let (s, x) = (input("s", "BYTES", "[2]", strings.len()), input("x", "FP32", "[2,2]", floats.len()));
    let text = format!(r#"{{"inputs":[{s},{x}]}}"#);
    let request = decode(&text, &[&strings[..], &floats].concat(), &specs()).unwrap();
    assert_eq!(request.inputs.column("x").unwrap().data(), floats);
    assert_eq!(request.inputs.column("s").unwrap().data(), strings);

    let mixed = format!(r#"{{"inputs":[{S},{x}]}}"#);
    assert_eq!(decode(&mixed, &floats, &specs()).unwrap().inputs.column("x").unwrap().data(), floats);
}

#[test]
fn strings_are_bytes_as_base64_where_the_input_says_so() {
    let specs = [spec("s", DataType::Bytes, &[])];
    let request =
        |input: &str, binary: &[u8]| decode(&format!(r#"{{"inputs":[{{{input}}}]}}"#), binary, &specs);
    let strings = |input: &str, binary: &[u8]| {
        let inputs = request(input, binary).unwrap().inputs;
        inputs.column("s").unwrap().byte_strings().map(<[u8]>::to_vec).collect::<Vec<_>>()
    };
    let head = r#""name":"s","shape":[2],"datatype":"BYTES""#;
    let (data, content) = (r#""data":["iVBORw==","AA"]"#, r#""parameters":{"content_type":"base64"}"#);
    let bytes = [b"\x89PNG".to_vec(), vec![0]];
    assert_eq!(strings(&format!("{head},{content},{data}"), b""), bytes);
    assert_eq!(strings(&format!("{data},{content},{head}"), b""), bytes, "whatever comes first");
    let sized = r#""parameters":{"binary_data_size":20,"content_type":"base64"}"#;
    assert_eq!(strings(&format!("{head},{sized}"), b"\x08\0\0\0iVBORw==\x04\0\0\0AA=="), bytes);

    for content in
        [r#""parameters":{"content_type":"str"}"#, r#""parameters":{"content_type":7}"#, r#""other":0"#]
    {
        assert_eq!(strings(&format!("{head},{content},{data}"), b"")[0], b"iVBORw==", "{content}");
    }
    let error = request(&format!(r#"{head},{content},"data":["AA","?"]"#), b"").unwrap_err();
    assert_eq!(error.to_string(), "row 1, column `s`: expected base64, found `?` at byte 0");
    assert_eq!((error.row(), error.column()), (Some(1), Some("s")));
}

#[test]
fn a_body_without_json_is_a_row_of_the_only_input() {
    let raw = |body: &[u8], specs: &[ColumnSpec]| decode_request(body, Some(0), specs, 8);
    let numbers = [spec("x", DataType::Fp32, &[2])];
    let body: Vec<u8> = [1.0_f32, -2.5].iter().flat_map(|value| value.to_le_bytes()).collect();
    let request = raw(&body, &numbers).unwrap();
    assert_eq!(
        request.inputs,
        Batch::new(vec![Tensor::from_f32("x", vec![1, 2], &[1.0, -2.5]).unwrap()]).unwrap()
    );
    assert_eq!(request.outputs, OutputSelection::new(Vec::new(), OutputForm::Binary).unwrap());

    let text = [spec("s", DataType::Bytes, &[])];
    for string in [&b"\x89PNG"[..], b"", b"{}"] {
        let inputs = raw(string, &text).unwrap().inputs;
        assert_eq!(inputs.tensors(), [Tensor::from_strings("s", [string]).unwrap()]);
    }
    let several = [spec("s", DataType::Bytes, &[2])];
    assert_eq!(raw(b"\0\0\0\0\x01\0\0\0a", &several).unwrap().inputs.rows(), 1);

    let error = |body: &[u8], specs: &[ColumnSpec]| raw(body, specs).unwrap_err().to_string();
    assert_eq!(
        error(&body[1..], &numbers),
        "column `x` of shape [1, 2] and type FP32: expected 8 bytes, found 7"
    );
    assert_eq!(error(b"", &numbers), "column `x` of shape [1, 2] and type FP32: expected 8 bytes, found 0");
    let nan = [0.0, f32::NAN].iter().flat_map(|value: &f32| value.to_le_bytes()).collect::<Vec<_>>();
    assert_eq!(error(&nan, &numbers), "row 0, column `x`: element 1: expected a number, found NaN");
    assert!(error(b"a", &several).contains("expected a length of 4 bytes, found 1 bytes left"));
    for specs in [&specs()[..], &[]] {
        assert_eq!(
            error(&body, specs),
            format!(
                "`Inference-Header-Content-Length` is 0, so that the body would be the bytes of the only input: \
                 expected JSON that names them, as there are {}",
                specs.len()
            )
        );
    }
}

#[test]
fn lengths_that_lie_are_refused() {
    let error = |size: &str, binary: &[u8]| {
        let parameters = format!(r#""parameters":{{"binary_data_size":{size}}}"#);
        input_error(&format!(r#""name":"x","shape":[1,2],"datatype":"FP32",{parameters}"#), binary)
    };
    assert_eq!(
        error("8", &[0; 7]),
        "column `x`: `binary_data_size` is 8, and 7 bytes are left behind the JSON, whose end \
         `Inference-Header-Content-Length` tells"
    );
    assert_eq!(
        error("8", &[0; 9]),
        "expected the body to end with the bytes of the last input, found 1 more"
    );
    assert_eq!(error("7", &[0; 7]), "column `x` of shape [1, 2] and type FP32: expected 8 bytes, found 7");
    assert_eq!(
        error("-8", &[0; 8]),
        "column `x`: `parameters`: `binary_data_size`: expected a whole number from 0 to 18446744073709551615, \
         found `-8`"
    );
    for size in ["8.0", "1e1", "99999999999999999999", "\"8\"", "true", "[8]"] {
        assert!(error(size, &[0; 8]).contains("expected a whole number"), "{size}");
    }
    assert!(error("18446744073709551615", &[0; 8]).contains("8 bytes are left"));

    let body = format!(r#"{{"inputs":[{X},{S}]}}"#).into_bytes();
    let with_length = |length| decode_request(&body, Some(length), &specs(), 8);
    assert!(with_length(body.len()).is_ok());
    assert_eq!(
        with_length(body.len() + 1).unwrap_err().to_string(),
        format!(
            "`Inference-Header-Content-Length` is {}: expected at most {}, the bytes of the body",
            body.len() + 1,
            body.len()
        )
    );
    assert!(with_length(body.len() - 1).unwrap_err().to_string().contains("found the end"));
    assert!(with_length(0).is_err());
    assert_eq!(parse_header_length("17").unwrap(), 17);
    for text in ["", "+1", "-1", "1 ", "0x1", "99999999999999999999", "x"] {
        let error = parse_header_length(text).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("`Inference-Header-Content-Length` is `{text}`: expected a number of bytes")
        );
    }
}

#[test]
fn shapes_are_those_of_the_signature() {
    let error = |shape: &str| {
        input_error(&format!(r#""name":"x","datatype":"FP32","shape":{shape},"data":[1,2]"#), b"")
    };
    let cases = [
        ("[2]", "column `x`: expected rows of 2, found one element"),
        ("[1,3]", "column `x`: expected rows of 2, found 3"),
        ("[1,2,1]", "column `x`: expected rows of 2, found 2 × 1"),
        ("[0,2]", "expected at least one row, found none"),
        ("[9,2]", "expected at most 8 rows, found 9"),
        ("[]", "column `x` has no dimensions: expected at least one, the row"),
        ("[2,2]", "column `x`: expected 4 values (2 × 2), found 2"),
        ("3", "column `x`: `shape`: expected a list, found `3`"),
        (
            "[1,\"2\"]",
            "column `x`: dimension 1: expected a whole number from 0 to 18446744073709551615, found a string",
        ),
        (
            "[-1,2]",
            "column `x`: dimension 0: expected a whole number from 0 to 18446744073709551615, found `-1`",
        ),
        (
            "[1.0,2]",
            "column `x`: dimension 0: expected a whole number from 0 to 18446744073709551615, found `1.0`",
        ),
        (
            "[1,18446744073709551616]",
            "column `x`: dimension 1: expected a whole number from 0 to 18446744073709551615, found `18446744073709551616`",
        ),
    ];
    for (shape, expected) in cases {
        assert_eq!(error(shape), expected, "{shape}");
    }
    let many = format!("[{}1]", "1,".repeat(1_000_000));
    assert_eq!(error(&many), "column `x`: expected at most 64 dimensions, found more");

    // A signature that promises more than there can be.
    let huge = [spec("x", DataType::Fp64, &[usize::MAX / 2])];
    let text = r#"{"inputs":[{"name":"x","datatype":"FP64","shape":[3,9223372036854775807],"data":[1]}]}"#;
    assert!(decode(text, b"", &huge).unwrap_err().to_string().contains("too large to address"));
    let large = [spec("x", DataType::Fp64, &[1 << 40])];
    let text = r#"{"inputs":[{"name":"x","datatype":"FP64","shape":[1,1099511627776],"data":[1]}]}"#;
    assert!(decode(text, b"", &large).unwrap_err().to_string().contains("found 1"));
}

#[test]
fn rows_and_columns_of_wrong_elements_are_told() {
    let error = |data: &str| {
        let specs = [spec("x", DataType::Uint8, &[2])];
        let text = format!(r#"{{"inputs":[{{"name":"x","datatype":"UINT8","shape":[2,2],"data":{data}}}]}}"#);
        let error = decode(&text, b"", &specs).unwrap_err();
        assert_eq!(error.column(), Some("x"));
        (error.to_string(), error.row())
    };
    let cases = [
        ("[1,2,3,256]", "row 1, column `x`: element 1: expected UINT8 (0 to 255), found `256`", Some(1)),
        ("[[1,2],[3,-4]]", "row 1, column `x`: element 1: expected UINT8 (0 to 255), found `-4`", Some(1)),
        ("[[1,2],[3]]", "row 1, column `x`: expected 2 values, found 1", Some(1)),
        ("[[1,2],[3,4],[5,6]]", "column `x`: expected 2 lists, found more", None),
        ("[[1,2]]", "column `x`: expected 2 lists, found 1", None),
        ("[1,2,3]", "column `x`: expected 4 values (2 × 2), found 3", None),
        ("[1,2,3,4,5]", "column `x`: expected 4 values (2 × 2), found 5", None),
        ("[1,2,3,4,null]", "column `x`: expected UINT8 (0 to 255), found `null`", None),
        ("[1,2,null,4]", "row 1, column `x`: element 0: expected UINT8 (0 to 255), found `null`", Some(1)),
        ("[1,2,true,4]", "row 1, column `x`: element 0: expected UINT8 (0 to 255), found `true`", Some(1)),
        ("[[1,2],[3,[4]]]", "row 1, column `x`: element 1: expected UINT8 (0 to 255), found a list", Some(1)),
        ("5", "column `x`: expected a list of 4 values (2 × 2), found `5`", None),
        ("{}", "column `x`: expected a list of 4 values (2 × 2), found an object", None),
    ];
    for (data, message, row) in cases {
        assert_eq!(error(data), (message.to_owned(), row), "{data}");
    }
    for literal in ["NaN", "Infinity", "-Infinity"] {
        let (message, row) = error(&format!("[0,1,{literal},3]"));
        assert!(message.starts_with("row 1, column `x`: element 0: not JSON at byte "), "{message}");
        assert_eq!(row, Some(1));
    }
}

#[test]
fn floats_can_be_missing_only_where_the_signature_says() {
    let missing = |nullable| {
        let specs = [ColumnSpec { nullable, ..spec("x", DataType::Fp64, &[]) }];
        let text = r#"{"inputs":[{"name":"x","datatype":"FP64","shape":[2],"data":[1.5,null]}]}"#;
        decode(text, b"", &specs).map_err(|error| error.to_string())
    };
    assert!(missing(true).unwrap().inputs.column("x").unwrap().to_f64().unwrap()[1].is_nan());
    assert_eq!(missing(false).unwrap_err(), "row 1, column `x`: expected FP64, found `null`");
}

#[test]
fn floats_that_json_has_no_word_for_are_taken_as_bytes_are() {
    let head = r#""name":"x","datatype":"FP32","shape":[3]"#;
    let both = |nullable, values: [f32; 3], words: &str| {
        let specs = [ColumnSpec { nullable, ..spec("x", DataType::Fp32, &[]) }];
        let read = |inputs: &str, binary: &[u8]| {
            let text = format!(r#"{{"parameters":{{"mine":[NaN,-Infinity]}},"inputs":[{{{inputs}}}]}}"#);
            let bits = |request: InferenceRequest| request.inputs.column("x").unwrap().data().to_vec();
            decode(&text, binary, &specs).map(bits).map_err(|error| error.row())
        };
        let binary: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let expected = read(&format!(r#"{head},"parameters":{{"binary_data_size":12}}"#), &binary);
        assert_eq!(read(&format!(r#"{head},"data":[{words}]"#), b""), expected, "{words}");
        assert_eq!(read(&format!(r#""data":[{words}],{head}"#), b""), expected, "{words}");
        expected
    };
    assert!(both(true, [f32::NAN, f32::INFINITY, f32::NEG_INFINITY], "NaN,Infinity,-Infinity").is_ok());
    assert!(both(false, [1.0, f32::INFINITY, f32::NEG_INFINITY], "1,Infinity,-Infinity").is_ok());
    assert_eq!(both(false, [1.0, 2.0, f32::NAN], "1,2,NaN"), Err(Some(2)));
}

#[test]
fn columns_are_there_once_and_no_others() {
    let error =
        |inputs: &str| decode(&format!(r#"{{"inputs":{inputs}}}"#), b"", &specs()).unwrap_err().to_string();
    assert_eq!(error("[]"), "column `x` is missing");
    assert_eq!(error(&format!("[{S}]")), "column `x` is missing");
    assert_eq!(error(&format!("[{S},{X},{S}]")), "column `s` appears twice");
    let other = X.replace("\"x\"", "\"y\"");
    assert_eq!(error(&format!("[{S},{other}]")), "column `y` is unknown: expected `x`, `s`");
    let fewer = r#"{"name":"s","datatype":"BYTES","shape":[1],"data":["a"]}"#;
    assert_eq!(error(&format!("[{X},{fewer}]")), "column `s` has 1 rows: expected 2, as in `x`");
    assert_eq!(error("{}"), "`inputs`: expected a list, found an object");
    assert_eq!(error("[3]"), "input 0: expected an object, found `3`");
    assert_eq!(decode(r#"{"inputs":[]}"#, b"", &[]).unwrap_err(), InferenceError::NoRows);
}

#[test]
fn fields_are_there_once() {
    let whole = r#""name":"x","datatype":"FP32","shape":[1,2],"data":[1,2]"#;
    for (without, expected) in [
        (r#""name":"x","#, "input 0: `name` is missing"),
        (r#""datatype":"FP32","#, "column `x`: `datatype` is missing"),
        (r#""shape":[1,2],"#, "column `x`: `shape` is missing"),
        (
            r#","data":[1,2]"#,
            "column `x`: expected its elements in `data` or as `binary_data_size` bytes, found neither",
        ),
    ] {
        assert_eq!(input_error(&whole.replace(without, ""), b""), expected);
    }
    for field in [r#""name":"x""#, r#""datatype":"FP32""#, r#""shape":[1,2]"#, r#""data":[1,2]"#] {
        let message = input_error(&format!("{whole},{field}"), b"");
        assert!(message.ends_with("appears twice"), "{message}");
    }
    let both = format!(r#"{whole},"parameters":{{"binary_data_size":8}}"#);
    assert_eq!(
        input_error(&both, &[0; 8]),
        "column `x`: expected its elements in `data` or as `binary_data_size` bytes, found both"
    );
    let shared =
        format!(r#"{whole},"parameters":{{"shared_memory_region":"r","shared_memory_byte_size":8}}"#);
    assert_eq!(
        input_error(&shared, b""),
        "column `x`: `parameters`: `shared_memory_region` is not supported: expected the elements themselves"
    );
    let types = [
        (r#""name":3"#, "input 0: `name`: expected a string, found `3`"),
        (r#""datatype":null"#, "input 0: `datatype`: expected a string, found `null`"),
        (r#""parameters":3"#, "input 0: `parameters`: expected an object, found `3`"),
    ];
    for (fields, expected) in types {
        assert_eq!(input_error(fields, b""), expected);
    }
}

#[test]
fn requests_that_are_none_are_told_so() {
    let error = |text: &str| decode(text, b"", &specs()).unwrap_err().to_string();
    let cases = [
        ("", "not JSON at byte 0: expected an object, found the end"),
        ("[]", "expected an object, found a list"),
        ("{}", "`inputs` is missing"),
        (r#"{"inputs""#, "not JSON at byte 9: expected `:`, found the end"),
        (r#"{"id":3}"#, "`id`: expected a string, found `3`"),
        (r#"{"id":"a","id":"b"}"#, "`id` appears twice"),
        (r#"{"outputs":3}"#, "`outputs`: expected a list, found `3`"),
        (r#"{"outputs":[{}]}"#, "output 0: `name` is missing"),
        (r#"{"outputs":[{"name":"p","name":"p"}]}"#, "output 0: `name` appears twice"),
        (
            r#"{"outputs":[{"name":"p","parameters":{"binary_data":1}}]}"#,
            "output 0: `parameters`: `binary_data`: expected true or false, found `1`",
        ),
        (
            r#"{"outputs":[{"name":"p","parameters":{"shared_memory_region":"r"}}]}"#,
            "output 0: `parameters`: `shared_memory_region` is not supported: expected the elements themselves",
        ),
        (
            r#"{"parameters":{"binary_data_output":"yes"}}"#,
            "`parameters`: `binary_data_output`: expected true or false, found a string",
        ),
    ];
    for (text, expected) in cases {
        assert_eq!(error(text), expected, "{text}");
    }
    let long = "a".repeat(1_025);
    assert_eq!(error(&format!(r#"{{"id":"{long}"}}"#)), "`id`: expected at most 1024 bytes, found 1025");
    let output = r#"{"name":"p"},"#.repeat(300);
    assert_eq!(error(&format!(r#"{{"outputs":[{output}"#)), "expected at most 256 outputs, found more");
    assert!(error(&format!(r#"{{"inputs":[{X},{S}]}} x"#)).starts_with("not JSON at byte "));
}

#[test]
fn deep_json_is_refused_wherever_it_stands() {
    let deep = "[".repeat(1_000_000);
    for text in [
        deep.clone(),
        format!(r#"{{"other":{deep}"#),
        format!(r#"{{"parameters":{{"mine":{deep}"#),
        format!(r#"{{"inputs":{deep}"#),
        format!(r#"{{"inputs":[{{"data":{deep}"#),
        format!(r#"{{"inputs":[{{"name":"x","datatype":"FP32","shape":[1,2],"data":{deep}"#),
        format!(r#"{{"inputs":[{{"shape":{deep}"#),
    ] {
        assert!(decode(&text, b"", &specs()).is_err());
    }
    let objects = format!(r#"{{"other":{}"#, r#"{"a":"#.repeat(1_000_000));
    let error = decode(&objects, b"", &specs()).unwrap_err().to_string();
    assert_eq!(error, "expected at most 64 lists and objects in each other, found more");
}

/// A signature, and a batch of its columns.
fn batches() -> impl Strategy<Value = (Vec<ColumnSpec>, Batch)> {
    let column = (0..DataType::ALL.len(), prop::collection::vec(0..4_usize, 0..3), any::<bool>());
    (prop::collection::vec(column, 1..5), 1..5_usize, any::<u64>()).prop_map(|(columns, rows, seed)| {
        let mut random = seed;
        let specs = columns.into_iter().enumerate().map(|(index, (dtype, shape, nullable))| {
            let dtype = DataType::ALL[dtype];
            ColumnSpec { name: format!("c{index} \"ä"), dtype, shape, nullable, element_names: Vec::new() }
        });
        let specs: Vec<ColumnSpec> = specs.collect();
        let tensors = specs.iter().map(|spec| tensor_of(spec, rows, &mut random)).collect();
        (specs, Batch::new(tensors).unwrap())
    })
}

/// A tensor of elements that JSON can hold too.
fn tensor_of(spec: &ColumnSpec, rows: usize, random: &mut u64) -> Tensor {
    let mut data = Vec::new();
    for _ in 0..rows * spec.row_elements() {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let bits = *random >> 3;
        let bytes = bits.to_le_bytes();
        match spec.dtype {
            DataType::Bool => data.push(bytes[0] & 1),
            DataType::Bytes => {
                let string =
                    "aä\"\\\n\u{1F600}".chars().cycle().skip(bits as usize % 7).take(bits as usize % 5);
                let string: String = string.collect();
                data.extend_from_slice(&(string.len() as u32).to_le_bytes());
                data.extend_from_slice(string.as_bytes());
            }
            DataType::Fp16 => data.extend_from_slice(&[bytes[0], bytes[1] & 0xbb]),
            DataType::Fp32 => data.extend_from_slice(&[bytes[0], bytes[1], bytes[2], bytes[3] & 0xbf]),
            DataType::Fp64 => data.extend_from_slice(&(bits & 0xbfff_ffff_ffff_ffff).to_le_bytes()),
            integer => data.extend_from_slice(&bytes[..integer.size().unwrap()]),
        }
    }
    tensor(spec, rows, data).unwrap()
}

/// How a client writes an input.
#[derive(Debug, Clone, Copy)]
enum Style {
    Binary,
    Flat,
    Nested,
}

/// The request for `batch`: its header, and all of it.
fn encode(batch: &Batch, styles: &[Style], reverse: bool) -> (usize, Vec<u8>) {
    let mut binary = Vec::new();
    let mut inputs = Vec::new();
    for (tensor, style) in batch.tensors().iter().zip(styles) {
        let mut fields = vec![
            ("name", json!(tensor.name())),
            ("shape", json!(tensor.shape())),
            ("datatype", json!(tensor.dtype().as_str())),
        ];
        if matches!(style, Style::Binary) {
            fields.push(("parameters", json!({"binary_data_size": tensor.data().len()})));
            binary.extend_from_slice(tensor.data());
        } else {
            let mut text = b"[".to_vec();
            write_elements(&mut text, tensor).unwrap();
            text.push(b']');
            let mut values: Vec<Value> = serde_json::from_slice(&text).unwrap();
            if matches!(style, Style::Nested) && !values.is_empty() {
                for size in tensor.shape().iter().skip(1).rev() {
                    values = values.chunks(*size).map(|chunk| json!(chunk)).collect();
                }
            }
            fields.push(("data", json!(values)));
        }
        if reverse {
            fields.reverse();
        }
        let fields: Map<String, Value> =
            fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        inputs.push(Value::Object(fields));
    }
    let header = serde_json::to_vec(&json!({"id": "7", "inputs": inputs})).unwrap();
    let length = header.len();
    (length, [header, binary].concat())
}

fn styles() -> impl Strategy<Value = Vec<Style>> {
    prop::collection::vec(prop::sample::select(vec![Style::Binary, Style::Flat, Style::Nested]), 5)
}

/// What a client makes of an answer: name, type, shape and bytes or JSON of each output.
fn read_answer(body: &[u8], header_length: Option<usize>) -> Vec<(Value, Option<Vec<u8>>)> {
    let (header, mut binary) = body.split_at(header_length.unwrap_or(body.len()));
    let answer: Value = serde_json::from_slice(header).unwrap();
    let outputs = answer["outputs"].as_array().unwrap().iter().map(|output| {
        let size = output["parameters"]["binary_data_size"].as_u64();
        let own = size.map(|size| {
            let (own, rest) = binary.split_at(size as usize);
            binary = rest;
            own.to_vec()
        });
        (output.clone(), own)
    });
    let outputs = outputs.collect();
    assert!(binary.is_empty());
    outputs
}

proptest! {
    #[test]
    fn batches_come_through_in_every_style((specs, batch) in batches(), styles in styles(), reverse: bool) {
        let (length, body) = encode(&batch, &styles, reverse);
        let request = decode_request(&body, Some(length), &specs, 4).unwrap();
        prop_assert_eq!(request.id.as_deref(), Some("7"));
        for (found, expected) in request.inputs.tensors().iter().zip(batch.tensors()) {
            prop_assert_eq!(format!("{found:?}"), format!("{expected:?}"));
            prop_assert_eq!(found.data(), expected.data());
        }
    }

    #[test]
    fn answers_come_back_as_they_were((_, batch) in batches(), binary: bool) {
        let form = if binary { OutputForm::Binary } else { OutputForm::Json };
        let selection = OutputSelection::new(Vec::new(), form).unwrap();
        let answer = encode_response(ResponseHead::default(), &batch, &selection).unwrap();
        prop_assert_eq!(answer.header_length.is_some(), binary);
        for ((output, bytes), tensor) in read_answer(&answer.body, answer.header_length).iter().zip(batch.tensors()) {
            prop_assert_eq!(output["name"].as_str(), Some(tensor.name()));
            prop_assert_eq!(output["datatype"].as_str(), Some(tensor.dtype().as_str()));
            prop_assert_eq!(&output["shape"], &json!(tensor.shape()));
            if binary {
                prop_assert_eq!(bytes.as_deref(), Some(tensor.data()));
            } else {
                prop_assert_eq!(output["data"].as_array().unwrap().len(), tensor.shape().iter().product::<usize>());
            }
        }
    }

    #[test]
    fn damaged_requests_are_refused_or_still_fit(
        (specs, batch) in batches(),
        styles in styles(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        end in any::<prop::sample::Index>(),
        length_change in -3..4_isize,
    ) {
        let (length, mut body) = encode(&batch, &styles, false);
        for (place, byte) in damage {
            let place = place.index(body.len());
            body[place] = byte;
        }
        body.truncate(end.index(body.len() * 2).max(1));
        for length in [None, length.checked_add_signed(length_change)] {
            if let Ok(request) = decode_request(&body, length, &specs, 4) {
                prop_assert!(ColumnSpec::check(&specs, &request.inputs).is_ok());
                prop_assert!((1..=4).contains(&request.inputs.rows()));
                let header = &body[..length.unwrap_or(body.len())];
                prop_assert!(serde_json::from_slice::<Value>(header).is_ok());
            }
        }
    }

    #[test]
    fn no_text_that_serde_json_refuses_is_taken(text in "([\\[\\]{}:,\"a0-9.eE+ tn-]|NaN|Infinity|-Infinity){0,24}") {
        let specs = [spec("a", DataType::Fp64, &[2])];
        let head = r#""name":"a","datatype":"FP64","shape":[1,2]"#;
        for text in [
            text.clone(),
            format!(r#"{{"x":{text},"inputs":[{{{head},"data":[1,2]}}]}}"#),
            format!(r#"{{"inputs":[{{{head},"data":{text}}}]}}"#),
            format!(r#"{{"inputs":[{{"data":[{text}],{head}}}]}}"#),
            format!(r#"{{"inputs":[{{{head},"data":[1,2],{text}}}]}}"#),
        ] {
            if decode_request(text.as_bytes(), None, &specs, 3).is_ok() {
                // JSON has no other words where these may stand.
                let json = text.replace("-Infinity", "null").replace("Infinity", "null").replace("NaN", "null");
                prop_assert!(serde_json::from_str::<Value>(&json).is_ok(), "{}", text);
            }
        }
    }
}
