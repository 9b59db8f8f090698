use super::super::protobuf::{write_bytes, write_integer};
use super::*;

fn message(fields: &[Vec<u8>]) -> Vec<u8> {
    fields.concat()
}

/// A tensor type; 0 is a dimension of any size.
fn outlet(name: &str, element: u8, sizes: &[u8]) -> Vec<u8> {
    let size = |&size: &u8| write_bytes(1, &write_integer(1, size));
    let shape = write_bytes(2, &sizes.iter().flat_map(size).collect::<Vec<u8>>());
    let tensor = write_bytes(1, &message(&[write_integer(1, element).into(), shape]));
    message(&[write_bytes(1, name.as_bytes()), write_bytes(2, &tensor)])
}

fn node(operator: &str, input: &str, output: &str, attributes: &[Vec<u8>]) -> Vec<u8> {
    let attributes = attributes.iter().map(|attribute| write_bytes(5, attribute));
    let ends = [write_bytes(1, input.as_bytes()), write_bytes(2, output.as_bytes())].concat();
    let fields: Vec<u8> = attributes.flatten().collect();
    message(&[ends, write_bytes(4, operator.as_bytes()), fields])
}

fn tensor_elsewhere() -> Vec<u8> {
    let location = [write_bytes(1, b"location"), write_bytes(2, b"../../etc/passwd")].concat();
    message(&[write_bytes(8, b"w"), write_bytes(13, &location), write_integer(14, 1).into()])
}

/// A file with the format's version before a graph of these fields.
fn file(fields: &[Vec<u8>]) -> Vec<u8> {
    message(&[write_integer(1, 8).into(), write_bytes(7, &message(fields))])
}

fn sound() -> Vec<Vec<u8>> {
    vec![
        write_bytes(1, &node("Softmax", "x", "y", &[])),
        write_bytes(5, &message(&[write_bytes(8, b"w"), write_bytes(9, &[0; 200])])),
        write_bytes(11, &outlet("x", 1, &[0, 4])),
        write_bytes(11, &outlet("w", 1, &[50])),
        write_bytes(12, &outlet("y", 1, &[0, 3])),
    ]
}

#[test]
fn ends_and_nodes_are_told_without_inputs_that_have_a_value() {
    let bytes = file(&sound());
    assert!(is_onnx(&bytes));
    let graph = Graph::of_file(&bytes).unwrap();
    let texts = |outlets: &[Outlet<'_>]| outlets.iter().map(Outlet::to_string).collect::<Vec<_>>();
    assert_eq!(texts(&graph.inputs), ["`x` FLOAT [?, 4]"]);
    assert_eq!(texts(&graph.outputs), ["`y` FLOAT [?, 3]"]);
    let expected = Node { operator: "Softmax", inputs: vec!["x"], outputs: vec!["y"], ..Default::default() };
    assert_eq!(graph.nodes, [expected]);
}

#[test]
fn an_output_can_be_added_to_a_file() {
    let mut bytes = file(&sound());
    bytes.extend(output_of("p"));
    let added = output_of("p");
    let graph = Fields::of(&added).next().unwrap().unwrap();
    let output = Fields::of(graph.1.bytes().unwrap()).next().unwrap().unwrap();
    let outlet = Outlet::read(output.1.bytes().unwrap()).unwrap();
    assert_eq!((graph.0, output.0, outlet.to_string()), (7, 12, "`p` FLOAT of any shape".to_owned()));
    assert_eq!(Graph::of_file(&bytes).unwrap_err(), "it has several graphs");
}

#[test]
fn tensors_elsewhere_are_refused_wherever_they_hide() {
    let elsewhere = tensor_elsewhere();
    let attribute = |number: u8| vec![write_bytes(number, &elsewhere)];
    let inner = write_bytes(5, &elsewhere);
    let hidden = [
        write_bytes(5, &elsewhere),
        write_bytes(15, &write_bytes(2, &elsewhere)),
        write_bytes(1, &node("Constant", "", "c", &attribute(5))),
        write_bytes(1, &node("Constant", "", "c", &attribute(10))),
        write_bytes(1, &node("Constant", "", "c", &[write_bytes(22, &write_bytes(1, &elsewhere))])),
        write_bytes(1, &node("If", "", "c", &[write_bytes(6, &inner)])),
        write_bytes(1, &node("Loop", "", "c", &[write_bytes(11, &inner)])),
    ];
    for hidden in hidden {
        let error = Graph::of_file(&file(&[sound(), vec![hidden]].concat())).unwrap_err();
        assert!(
            error.starts_with("its tensor `w` is in another file: expected all of the model in one"),
            "{error}"
        );
    }
    let constant = node("Constant", "", "c", &attribute(5));
    for added in [write_bytes(20, &write_bytes(2, &inner)), write_bytes(25, &write_bytes(7, &constant))] {
        assert!(Graph::of_file(&[file(&sound()), added].concat()).unwrap_err().starts_with("its tensor `w`"));
    }
}

#[test]
fn graphs_in_each_other_have_a_limit() {
    let mut graph = Vec::new();
    for _ in 0..100 {
        graph = write_bytes(1, &node("Loop", "", "c", &[write_bytes(6, &graph)]));
    }
    assert!(Graph::of_file(&file(&[graph])).unwrap_err().contains("more than 16 graphs"));
}

#[test]
fn ends_of_other_types_are_told_or_refused() {
    let typed = |kind: &[u8]| message(&[write_bytes(1, b"y"), write_bytes(2, kind)]);
    let read = |outlet: Vec<u8>| {
        Graph::of_file(&file(&[write_bytes(12, &outlet)])).map(|graph| graph.outputs[0].to_string())
    };
    assert_eq!(read(typed(&write_bytes(4, b""))).unwrap(), "`y` a sequence");
    assert_eq!(read(typed(&write_bytes(1, &write_integer(1, 8)))).unwrap(), "`y` STRING of any shape");
    assert_eq!(read(outlet("y", 99, &[1])).unwrap(), "`y` type 99 [1]");
    assert!(read(typed(&write_bytes(7, b""))).unwrap_err().contains("opaque"));
    let twice = [write_bytes(1, b""), write_bytes(4, b"")].concat();
    for outlet in [typed(b""), typed(&twice), write_bytes(1, b"y"), write_bytes(1, &[0xff])] {
        assert!(read(outlet).is_err());
    }
}

#[test]
fn a_file_that_is_cut_off_is_an_error_at_every_place() {
    let bytes = file(&sound());
    for end in 0..bytes.len() {
        assert!(Graph::of_file(&bytes[..end]).is_err(), "{end}");
    }
    for place in 0..bytes.len() {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1 << bit;
            // Whatever it says, it says it.
            let _ = Graph::of_file(&damaged);
        }
    }
}
