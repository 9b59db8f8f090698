//! What an ONNX file says of itself (<https://onnx.ai/onnx/repo-docs/IR.html>): inputs, outputs, and which node makes
//! what. The runtime reads the file once more, as native code; what must not reach it is refused here, first of all
//! tensors that stand elsewhere: a file could name any other file of the machine, or a place in memory.

use super::levels;
use super::protobuf::{Fields, Value, write_bytes, write_integer};

/// Graphs in graphs: of loops and conditions. The runtime itself takes fewer than a hundred messages in each other.
const DEPTH_MAX: usize = 16;

/// The element type `FLOAT`.
const FLOAT: u8 = 1;

/// A graph and its ends.
#[derive(Debug, Default)]
pub(super) struct Graph<'a> {
    /// What the user must give: inputs with a value in the file are none.
    pub(super) inputs: Vec<Outlet<'a>>,
    pub(super) outputs: Vec<Outlet<'a>>,
    pub(super) nodes: Vec<Node<'a>>,
    /// Tensors with a value in the file, as they stand there.
    pub(super) tensors: Vec<(&'a str, &'a [u8])>,
    /// Whether the file has operators of its own.
    pub(super) has_functions: bool,
}

/// An input or output.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outlet<'a> {
    pub(super) name: &'a str,
    pub(super) kind: OutletKind,
}

/// What an input or output is.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum OutletKind {
    /// A tensor; without a shape where the file tells none.
    Tensor { element: Element, shape: Option<Vec<Option<u64>>> },
    /// Something else, by the name of its type.
    Other(&'static str),
}

/// Types of elements that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Element {
    Float,
    Double,
    Int32,
    Int64,
    /// Another, by its number in the format.
    Other(i64),
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Node<'a> {
    pub(super) operator: &'a str,
    /// Of the operator.
    pub(super) domain: &'a str,
    pub(super) inputs: Vec<&'a str>,
    pub(super) outputs: Vec<&'a str>,
    /// As they stand in the file.
    pub(super) attributes: Vec<&'a [u8]>,
}

/// A list of integers or texts.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum List {
    Integers(Vec<i64>),
    Texts(Vec<String>),
}

impl List {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Integers(numbers) => numbers.len(),
            Self::Texts(texts) => texts.len(),
        }
    }
}

impl std::fmt::Display for Element {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = match self {
            Self::Float | Self::Other(1) => "FLOAT",
            Self::Double => "DOUBLE",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Other(2) => "UINT8",
            Self::Other(3) => "INT8",
            Self::Other(8) => "STRING",
            Self::Other(9) => "BOOL",
            Self::Other(10) => "FLOAT16",
            Self::Other(number) => return write!(formatter, "type {number}"),
        };
        formatter.write_str(name)
    }
}

impl std::fmt::Display for Outlet<'_> {
    /// As in `` `x` FLOAT [?, 4] ``.
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "`{}` ", self.name)?;
        match &self.kind {
            OutletKind::Other(name) => formatter.write_str(name),
            OutletKind::Tensor { element, shape: None } => write!(formatter, "{element} of any shape"),
            OutletKind::Tensor { element, shape: Some(shape) } => {
                let size = |size: &Option<u64>| size.map_or_else(|| "?".to_owned(), |size| size.to_string());
                let sizes: Vec<String> = shape.iter().map(size).collect();
                write!(formatter, "{element} [{}]", sizes.join(", "))
            }
        }
    }
}

/// Whether a file may be ONNX: it begins with the version of the format, a small number, as the first field.
pub(in crate::model) fn is_onnx(bytes: &[u8]) -> bool {
    matches!(bytes, [0x08, 1..=0x7f, ..])
}

impl<'a> Graph<'a> {
    /// Reads a file, in words where something is wrong.
    pub(super) fn of_file(bytes: &'a [u8]) -> Result<Self, String> {
        let (mut graph, mut has_functions) = (None, false);
        for field in Fields::of(bytes) {
            match field? {
                (7, value) => {
                    // The runtime would merge several into one that was not checked.
                    let before = graph.replace(Self::read(value.bytes()?)?);
                    if before.is_some() {
                        return Err("it has several graphs".to_owned());
                    }
                }
                // Functions and, in each of the steps of a training, two graphs.
                (25, value) => {
                    has_functions = true;
                    check_nodes(value.bytes()?, 7, 0)?;
                }
                (20, value) => check_graphs(value.bytes()?, &[1, 2], 0)?,
                _ => {}
            }
        }
        let graph = graph.ok_or_else(|| "it has no graph".to_owned())?;
        Ok(Self { has_functions, ..graph })
    }

    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        check_graph(bytes, 0)?;
        let mut graph = Self::default();
        for field in Fields::of(bytes) {
            match field? {
                (1, node) => graph.nodes.push(Node::read(node.bytes()?)?),
                (5, tensor) => {
                    let tensor = tensor.bytes()?;
                    graph.tensors.extend(text_of(tensor, 8)?.map(|name| (name, tensor)));
                }
                (11, input) => graph.inputs.push(Outlet::read(input.bytes()?)?),
                (12, output) => graph.outputs.push(Outlet::read(output.bytes()?)?),
                _ => {}
            }
        }
        let Self { inputs, tensors, .. } = &mut graph;
        inputs.retain(|input| tensors.iter().all(|(name, _)| *name != input.name));
        Ok(graph)
    }

    /// The node that makes a tensor.
    pub(super) fn maker(&self, tensor: &str) -> Option<&Node<'a>> {
        self.nodes.iter().find(|node| node.outputs.contains(&tensor))
    }

    /// The integers or texts of a tensor that has a value in the file; none of another type.
    pub(super) fn list(&self, tensor: &str) -> Result<Option<List>, String> {
        match self.tensors.iter().find(|(name, _)| *name == tensor) {
            Some((_, bytes)) => list_of_tensor(bytes),
            None => Ok(None),
        }
    }
}

/// What is to be added to a file, so that a tensor within it is an output too: as messages of one field are merged, a
/// second graph of only that output.
pub(super) fn output_of(name: &str) -> Vec<u8> {
    let tensor = write_integer(1, FLOAT);
    let kind = write_bytes(1, &tensor);
    let outlet = [write_bytes(1, name.as_bytes()), write_bytes(2, &kind)].concat();
    write_bytes(7, &write_bytes(12, &outlet))
}

impl<'a> Outlet<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let (mut name, mut kind) = ("", None);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => name = value.text()?,
                (2, value) => {
                    let before = kind.replace(OutletKind::read(value.bytes()?)?);
                    if before.is_some() {
                        return Err(format!("`{name}` has several types"));
                    }
                }
                _ => {}
            }
        }
        Ok(Self { name, kind: kind.ok_or_else(|| format!("`{name}` has no type"))? })
    }
}

impl OutletKind {
    fn read(bytes: &[u8]) -> Result<Self, String> {
        let mut kind = None;
        for field in Fields::of(bytes) {
            let (number, value) = field?;
            let read = match number {
                1 => Self::tensor(value.bytes()?)?,
                // Types of which the binding of the runtime knows no value, or does not look into, are the file's fault.
                4 => Self::Other("a sequence"),
                5 => Self::Other("a map"),
                7 => return Err("an input or output is of an opaque type".to_owned()),
                8 => Self::Other("a sparse tensor"),
                9 => Self::Other("an optional value"),
                _ => continue,
            };
            if kind.replace(read).is_some() {
                return Err("an input or output has several types".to_owned());
            }
        }
        kind.ok_or_else(|| "an input or output has no type".to_owned())
    }

    fn tensor(bytes: &[u8]) -> Result<Self, String> {
        let (mut element, mut shape) = (Element::Other(0), None);
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => {
                    element = match value.integer()? {
                        1 => Element::Float,
                        6 => Element::Int32,
                        7 => Element::Int64,
                        11 => Element::Double,
                        other => Element::Other(other),
                    };
                }
                (2, value) => {
                    let mut sizes = Vec::new();
                    for size in Fields::of(value.bytes()?) {
                        if let (1, size) = size? {
                            sizes.push(dimension(size)?);
                        }
                    }
                    shape = Some(sizes);
                }
                _ => {}
            }
        }
        Ok(Self::Tensor { element, shape })
    }
}

/// The size of a dimension; none where it may be any. Some programs write 0 or a negative number for that.
fn dimension(value: Value<'_>) -> Result<Option<u64>, String> {
    let mut size = None;
    for field in Fields::of(value.bytes()?) {
        if let (1, number) = field? {
            size = u64::try_from(number.integer()?).ok().filter(|&size| size > 0);
        }
    }
    Ok(size)
}

impl<'a> Node<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, String> {
        let mut node = Self::default();
        for field in Fields::of(bytes) {
            match field? {
                (1, value) => node.inputs.push(value.text()?),
                (2, value) => node.outputs.push(value.text()?),
                (4, value) => node.operator = value.text()?,
                (5, value) => node.attributes.push(value.bytes()?),
                (7, value) => node.domain = value.text()?,
                _ => {}
            }
        }
        Ok(node)
    }

    fn attribute(&self, name: &str) -> Result<Option<&'a [u8]>, String> {
        for attribute in &self.attributes {
            if text_of(attribute, 1)? == Some(name) {
                return Ok(Some(attribute));
            }
        }
        Ok(None)
    }

    /// The graph among the attributes; none where there are several.
    pub(super) fn only_graph(&self) -> Result<Option<Graph<'a>>, String> {
        let mut graph = None;
        for attribute in &self.attributes {
            for field in Fields::of(attribute) {
                if let (6 | 11, value) = field?
                    && graph.replace(value.bytes()?).is_some()
                {
                    return Ok(None);
                }
            }
        }
        graph.map(Graph::read).transpose()
    }

    /// An attribute that is a text.
    pub(super) fn text(&self, name: &str) -> Result<Option<&'a str>, String> {
        self.attribute(name)?.map_or(Ok(None), |attribute| text_of(attribute, 4))
    }

    /// An attribute that is a list of integers or texts, unless it is empty.
    pub(super) fn list(&self, name: &str) -> Result<Option<List>, String> {
        match self.attribute(name)? {
            Some(attribute) => list_of(attribute, 8, 9),
            None => Ok(None),
        }
    }
}

/// The integers or texts in these fields of a message, unless there are none.
fn list_of(bytes: &[u8], integers: u64, texts: u64) -> Result<Option<List>, String> {
    let (mut numbers, mut words) = (Vec::new(), Vec::new());
    for field in Fields::of(bytes) {
        match field? {
            (found, value) if found == integers => numbers.extend(value.integers()?),
            (found, value) if found == texts => words.push(value.text()?.to_owned()),
            _ => {}
        }
    }
    Ok(match (numbers.is_empty(), words.is_empty()) {
        (false, true) => Some(List::Integers(numbers)),
        (true, false) => Some(List::Texts(words)),
        _ => None,
    })
}

fn list_of_tensor(bytes: &[u8]) -> Result<Option<List>, String> {
    let (mut element, mut raw) = (0, None);
    for field in Fields::of(bytes) {
        match field? {
            (2, value) => element = value.integer()?,
            (9, value) => raw = Some(value.bytes()?),
            _ => {}
        }
    }
    // Of INT32, INT64 and STRING.
    match (element, raw) {
        (6, Some(raw)) => {
            let numbers = raw.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into());
            Ok(Some(List::Integers(numbers.collect())))
        }
        (7, Some(raw)) => {
            let numbers = raw.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
            Ok(Some(List::Integers(numbers.collect())))
        }
        (6, None) => list_of(bytes, 5, 6),
        (7 | 8, None) => list_of(bytes, 7, 6),
        _ => Ok(None),
    }
}

/// The text in a field of a message, if it is there.
fn text_of(bytes: &[u8], number: u64) -> Result<Option<&str>, String> {
    let mut text = None;
    for field in Fields::of(bytes) {
        if let (found, value) = field?
            && found == number
        {
            text = Some(value.text()?);
        }
    }
    Ok(text)
}

/// Checks the tensors of a graph and of all in it.
fn check_graph(bytes: &[u8], depth: usize) -> Result<(), String> {
    if depth >= DEPTH_MAX {
        return Err(format!("it has more than {DEPTH_MAX} graphs in each other"));
    }
    check_nodes(bytes, 1, depth)?;
    for field in Fields::of(bytes) {
        match field? {
            (5, tensor) => check_tensor(tensor.bytes()?)?,
            (15, tensor) => check_sparse_tensor(tensor.bytes()?)?,
            _ => {}
        }
    }
    Ok(())
}

/// Checks the graphs in some fields of a message.
fn check_graphs(bytes: &[u8], numbers: &[u64], depth: usize) -> Result<(), String> {
    for field in Fields::of(bytes) {
        let (number, value) = field?;
        if numbers.contains(&number) {
            check_graph(value.bytes()?, depth)?;
        }
    }
    Ok(())
}

/// Checks the nodes in a field of a graph or function, and the attributes that a function has by default.
fn check_nodes(bytes: &[u8], number: u64, depth: usize) -> Result<(), String> {
    for field in Fields::of(bytes) {
        match field? {
            (found, node) if found == number => {
                let node = Node::read(node.bytes()?)?;
                levels::check(&node)?;
                for attribute in node.attributes {
                    check_attribute(attribute, depth)?;
                }
            }
            (11, attribute) if number == 7 => check_attribute(attribute.bytes()?, depth)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_attribute(bytes: &[u8], depth: usize) -> Result<(), String> {
    for field in Fields::of(bytes) {
        match field? {
            (5 | 10, tensor) => check_tensor(tensor.bytes()?)?,
            (6 | 11, graph) => check_graph(graph.bytes()?, depth + 1)?,
            (22 | 23, tensor) => check_sparse_tensor(tensor.bytes()?)?,
            _ => {}
        }
    }
    Ok(())
}

fn check_sparse_tensor(bytes: &[u8]) -> Result<(), String> {
    for field in Fields::of(bytes) {
        if let (1 | 2, tensor) = field? {
            check_tensor(tensor.bytes()?)?;
        }
    }
    Ok(())
}

fn check_tensor(bytes: &[u8]) -> Result<(), String> {
    for field in Fields::of(bytes) {
        let (number, value) = field?;
        if number == 13 || (number == 14 && value != Value::Varint(0)) {
            let name = text_of(bytes, 8)?.unwrap_or_default();
            return Err(format!(
                "its tensor `{name}` is in another file: expected all of the model in one\nhint: load it with its tensors by \
                 `onnx.load`, and save it by `onnx.save`"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
