//! Whether what a row takes of a graph can be told by rows before it. A loop may turn as often as a feature says, and a tensor
//! be as large; so only operators of which it is known that they do the same for every row are taken for that.

use std::collections::HashSet;

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
    "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Hardmax", "Identity", "Imputer", "InstanceNormalization", "IsInf", "IsNaN", "LRN", "LabelEncoder",
    "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "LinearClassifier", "LinearRegressor", "Log", "LogSoftmax",
    "LpNormalization", "LpPool", "MatMul", "MatMulInteger", "Max", "MaxPool", "Mean", "MeanVarianceNormalization", "Min", "Mish",
    "Mod", "Mul", "Neg", "Normalizer", "Not", "OneHotEncoder", "Or", "PRelu", "Pow", "QLinearConv", "QLinearMatMul",
    "QuantizeLinear", "Reciprocal", "Relu", "Round", "SVMClassifier", "SVMRegressor", "Scaler", "ScatterElements", "ScatterND",
    "Selu", "Shape", "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Sqrt",
    "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Transpose", "TreeEnsemble", "TreeEnsembleClassifier",
    "TreeEnsembleRegressor", "Trilu", "Where", "Xor", "ZipMap",
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

impl Graph<'_> {
    /// Whether every row takes as much as any other.
    pub(super) fn is_of_fixed_cost(&self) -> bool {
        // The same for every row.
        let mut known: HashSet<&str> = self.tensors.iter().map(|(name, _)| *name).collect();
        // What is left out.
        known.insert("");
        // Each stands after those that make what it takes.
        !self.has_functions && self.nodes.iter().all(|node| is_fixed(node, &mut known))
    }
}

/// Whether a node does the same for every row, where `known` are the tensors that are the same; adds its own to them.
fn is_fixed<'a>(node: &Node<'a>, known: &mut HashSet<&'a str>) -> bool {
    let is_one_of = |operators: &[&str]| operators.contains(&node.operator);
    let all_known = node.inputs.iter().all(|input| known.contains(input));
    let is_fixed = is_one_of(BY_SIZES)
        || is_one_of(BY_REST) && node.inputs.iter().skip(1).all(|input| known.contains(input))
        || is_one_of(BY_ALL) && all_known;
    // As sizes are the same.
    if all_known || is_one_of(&["Shape", "Size"]) {
        known.extend(&node.outputs);
    }
    is_fixed && DOMAINS.contains(&node.domain)
}

#[cfg(test)]
mod tests {
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
}
