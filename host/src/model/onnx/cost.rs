//! Whether what a row takes of a graph can be told by rows before it. A loop may turn as often as a feature says, and a tensor
//! be as large; so only operators of which it is known that they do the same for every row are taken for that.

use std::collections::HashMap;

use super::graph::{Graph, Node};

/// Domains whose operators are known here.
const DOMAINS: [&str; 3] = ["", "ai.onnx", "ai.onnx.ml"];

/// Operators whose work follows from the sizes of their inputs.
#[rustfmt::skip]
const BY_SIZES: &[&str] = &[
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "ArrayFeatureExtractor", "Asin", "Asinh", "Atan", "Atanh",
    "AveragePool", "BatchNormalization", "Binarizer", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast",
    "CastLike", "CategoryMapper", "Ceil", "Celu", "Clip", "Concat", "Constant", "Conv", "ConvInteger", "ConvTranspose", "Cos",
    "Cosh", "DepthToSpace", "DequantizeLinear", "Det", "Div", "Dropout", "DynamicQuantizeLinear", "Einsum", "Elu", "Equal", "Erf",
    "Exp", "EyeLike", "FeatureVectorizer", "Flatten", "Floor", "Gather", "GatherElements", "GatherND", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GridSample", "GroupNormalization",
    "HardSigmoid", "HardSwish", "Hardmax", "Identity", "Imputer", "InstanceNormalization", "IsInf", "IsNaN", "LRN",
    "LabelEncoder", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LinearClassifier", "LinearRegressor", "Log",
    "LogSoftmax", "LpNormalization", "LpPool", "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean", "MeanVarianceNormalization",
    "Min", "Mish", "Mod", "Mul", "Neg", "Normalizer", "Not", "OneHotEncoder", "Or", "PRelu", "Pow", "QLinearConv",
    "QLinearMatMul", "QuantizeLinear", "RMSNormalization", "Reciprocal", "Relu", "RotaryEmbedding", "Round", "SVMClassifier",
    "SVMRegressor", "Scaler", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin",
    "Sinh", "Size", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Sqrt", "Sub", "Sum", "Swish", "Tan", "Tanh",
    "ThresholdedRelu", "Transpose", "TreeEnsemble", "TreeEnsembleClassifier", "TreeEnsembleRegressor", "Trilu", "Where", "Xor",
    "ZipMap",
];

/// The domain of the runtime's own operators, which its optimizer and its quantizer put into files.
const RUNTIME_DOMAIN: &str = "com.microsoft";

/// Operators of the runtime's own whose work follows from the sizes of their inputs.
#[rustfmt::skip]
const OF_RUNTIME_BY_SIZES: &[&str] = &[
    "BiasGelu", "CDist", "DynamicQuantizeMatMul", "FastGelu", "FusedConv", "FusedGemm", "FusedMatMul", "Gelu",
    "MatMulIntegerToFloat", "MatMulNBits", "QLinearAdd", "QLinearAveragePool", "QLinearConcat", "QLinearGlobalAveragePool",
    "QLinearLeakyRelu", "QLinearMul", "QLinearSigmoid", "QLinearSoftmax", "QuickGelu", "SkipLayerNormalization",
];

/// Operators whose work follows also from what is in their inputs after the first, such as the shape that is asked for.
#[rustfmt::skip]
const BY_REST: &[&str] = &[
    "CumSum", "Expand", "GRU", "LSTM", "OneHot", "Pad", "RNN", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Reshape", "Resize", "Slice", "Split",
    "Squeeze", "Tile", "TopK", "Unsqueeze", "Upsample",
];

/// Operators whose work follows from what is in all of their inputs.
const BY_ALL: &[&str] = &["ConstantOfShape", "Range"];

/// Inputs of `Attention` before that which says how much of the others is to be looked at.
const ATTENTION_INPUTS: usize = 6;

/// Which tensors of a graph are the same for every row.
struct Known<'a, 'o> {
    names: HashMap<&'a str, bool>,
    /// Of the graph that it is in.
    outer: Option<&'o Known<'a, 'o>>,
}

impl Known<'_, '_> {
    fn has(&self, name: &str) -> bool {
        match self.names.get(name) {
            Some(&is_known) => is_known,
            None => self.outer.is_some_and(|outer| outer.has(name)),
        }
    }
}

impl<'a> Graph<'a> {
    /// Whether every row takes as much as any other.
    pub(super) fn is_of_fixed_cost(&self) -> bool {
        self.is_fixed_within(None)
    }

    fn is_fixed_within(&self, outer: Option<&Known<'a, '_>>) -> bool {
        let mut names: HashMap<&str, bool> = self.inputs.iter().map(|input| (input.name, false)).collect();
        names.extend(self.tensors.iter().map(|(name, _)| (*name, true)));
        // What is left out.
        names.insert("", true);
        let mut known = Known { names, outer };
        // Each stands after those that make what it takes.
        !self.has_functions && self.nodes.iter().all(|node| is_fixed(node, &mut known))
    }
}

/// Whether a node does the same for every row, where `known` are the tensors that are the same; adds its own to them.
fn is_fixed<'a>(node: &Node<'a>, known: &mut Known<'a, '_>) -> bool {
    let is_one_of = |operators: &[&str]| operators.contains(&node.operator);
    let all_known = node.inputs.iter().all(|input| known.has(input));
    let is_scan = is_one_of(&["Scan"]);
    let is_fixed = match DOMAINS.contains(&node.domain) {
        true => {
            is_one_of(BY_SIZES)
                || is_one_of(BY_REST) && node.inputs.iter().skip(1).all(|input| known.has(input))
                || is_one_of(BY_ALL) && all_known
                || is_one_of(&["Attention"]) && node.inputs.len() <= ATTENTION_INPUTS
                || is_scan && is_fixed_scan(node, known)
        }
        false => node.domain == RUNTIME_DOMAIN && is_one_of(OF_RUNTIME_BY_SIZES),
    };
    // As sizes are the same. What a scan takes from around it is none of its inputs.
    let makes_known = all_known && !is_scan || is_one_of(&["Shape", "Size"]);
    let outputs = node.outputs.iter().filter(|output| !output.is_empty());
    known.names.extend(outputs.map(|output| (*output, makes_known)));
    is_fixed
}

/// Whether a scan does: it turns as often as what it goes through is long, if what is done at each turn is fixed.
fn is_fixed_scan<'a>(node: &Node<'a>, known: &Known<'a, '_>) -> bool {
    // In opset 8 it has an input more than its body: for how long it is to go on.
    let body = node.only_graph().ok().flatten();
    body.is_some_and(|body| body.inputs.len() == node.inputs.len() && body.is_fixed_within(Some(known)))
}

#[cfg(test)]
mod tests {
    use super::super::protobuf::{write_bytes, write_integer};
    use super::*;

    fn node<'a>(operator: &'a str, inputs: &[&'a str], output: &'a str) -> Node<'a> {
        Node { operator, inputs: inputs.to_vec(), outputs: vec![output], ..Default::default() }
    }

    fn is_fixed(nodes: Vec<Node<'_>>) -> bool {
        Graph { nodes, tensors: vec![("c", &[][..])], ..Default::default() }.is_of_fixed_cost()
    }

    #[test]
    fn what_a_feature_can_prolong_is_not_of_fixed_cost() {
        assert!(is_fixed(vec![node("MatMul", &["x", "c"], "m"), node("Softmax", &["m"], "y")]));
        for operator in ["Loop", "Scan", "If", "SequenceMap", "NonZero", "NonMaxSuppression", "Other"] {
            assert!(!is_fixed(vec![node("Neg", &["x"], "n"), node(operator, &["n"], "y")]), "{operator}");
        }
        let fused = |domain| is_fixed(vec![Node { domain, ..node("FusedMatMul", &["x", "c"], "y") }]);
        assert!(fused("com.microsoft") && !fused(""));
        let lengths = ["q", "k", "v", "", "", "", "lengths"];
        assert!(is_fixed(vec![node("Attention", &lengths[..3], "y")]));
        assert!(!is_fixed(vec![node("Attention", &lengths, "y")]));
        let elsewhere = Node { domain: "own", ..node("Neg", &["x"], "y") };
        assert!(!is_fixed(vec![elsewhere]));
        let with_functions = Graph { has_functions: true, ..Default::default() };
        assert!(!with_functions.is_of_fixed_cost());
    }

    #[test]
    fn sizes_are_to_be_known_before() {
        assert!(is_fixed(vec![node("Expand", &["x", "c"], "y"), node("Resize", &["y", "", "c"], "z")]));
        assert!(!is_fixed(vec![node("Expand", &["x", "x"], "y")]));
        // Those of a tensor are known, and what is made of them.
        let shape = || vec![node("Shape", &["x"], "s"), node("Gather", &["s", "c"], "g")];
        assert!(is_fixed([shape(), vec![node("ConstantOfShape", &["g"], "y")]].concat()));
        let mixed = vec![node("Add", &["g", "x"], "h"), node("ConstantOfShape", &["h"], "y")];
        assert!(!is_fixed([shape(), mixed].concat()));
    }

    /// As it stands in a file.
    fn node_bytes(operator: &str, inputs: &[&str], output: &str) -> Vec<u8> {
        let inputs = inputs.iter().flat_map(|input| write_bytes(1, input.as_bytes()));
        inputs.chain(write_bytes(2, output.as_bytes())).chain(write_bytes(4, operator.as_bytes())).collect()
    }

    fn body_bytes(inputs: &[&str], tensors: &[&str], nodes: &[Vec<u8>]) -> Vec<u8> {
        let kind = write_bytes(2, &write_bytes(1, &write_integer(1, 1)));
        let outlet = |name: &&str| write_bytes(11, &[write_bytes(1, name.as_bytes()), kind.clone()].concat());
        let tensor = |name: &&str| write_bytes(5, &write_bytes(8, name.as_bytes()));
        let inputs = inputs.iter().flat_map(outlet);
        let nodes = nodes.iter().flat_map(|node| write_bytes(1, node));
        inputs.chain(tensors.iter().flat_map(tensor)).chain(nodes).collect()
    }

    fn attribute_bytes(body: &[u8]) -> Vec<u8> {
        [write_bytes(1, b"body"), write_bytes(6, body)].concat()
    }

    /// Whether a scan with this body is of fixed cost, after `n`, which follows from a row.
    fn is_fixed_scan(inputs: &[&str], body: &[u8]) -> bool {
        let attribute = attribute_bytes(body);
        let scan = Node { attributes: vec![&attribute], ..node("Scan", inputs, "y") };
        is_fixed(vec![node("Neg", &["x"], "n"), scan])
    }

    #[test]
    fn a_scan_is_of_fixed_cost_where_its_turns_are() {
        // The distances of a row to those of training, as skl2onnx has them.
        let distances = |axes| {
            let nodes =
                [node_bytes("Sub", &["row", "next"], "d"), node_bytes("ReduceSumSquare", &["d", axes], "s")];
            body_bytes(&["row", "next"], &["axes"], &nodes)
        };
        for (axes, expected) in
            [("axes", true), ("c", true), ("", true), ("n", false), ("next", false), ("d", false)]
        {
            assert_eq!(is_fixed_scan(&["n", "c"], &distances(axes)), expected, "{axes}");
        }
        // Opset 8, with lengths before the others.
        assert!(!is_fixed_scan(&["n", "n", "c"], &distances("axes")));
        let within = |operator| body_bytes(&["row"], &[], &[node_bytes(operator, &["row"], "s")]);
        assert!(is_fixed_scan(&["n"], &within("Neg")) && !is_fixed_scan(&["n"], &within("NonZero")));
        // One within another, and names that mean something else there.
        let nested = |inner: &[u8]| {
            let scan = [node_bytes("Scan", &["row"], "s"), write_bytes(5, &attribute_bytes(inner))].concat();
            body_bytes(&["row"], &[], &[scan])
        };
        assert!(
            is_fixed_scan(&["n"], &nested(&within("Neg")))
                && !is_fixed_scan(&["n"], &nested(&within("Loop")))
        );
        let hidden = body_bytes(&["c"], &[], &[node_bytes("Expand", &["n", "c"], "s")]);
        assert!(!is_fixed_scan(&["n"], &hidden));
    }

    #[test]
    fn what_a_scan_makes_may_follow_from_what_is_around_it() {
        let attribute = attribute_bytes(&body_bytes(&["row"], &[], &[node_bytes("Add", &["row", "x"], "s")]));
        let scan = || Node { attributes: vec![&attribute], ..node("Scan", &["c"], "y") };
        assert!(is_fixed(vec![scan()]));
        assert!(!is_fixed(vec![scan(), node("Expand", &["x", "y"], "z")]));
        let two = Node { attributes: vec![&attribute, &attribute], ..scan() };
        assert!(!is_fixed(vec![two]), "which of them is its body nobody knows");
    }
}
