use super::{Field, FieldKind, OnlyWith, Output, StepKind, Uses};

const fn required(name: &'static str, kind: FieldKind, doc: &'static str) -> Field {
    Field { name, kind, is_required: true, doc }
}

const fn optional(name: &'static str, kind: FieldKind, doc: &'static str) -> Field {
    Field { name, kind, is_required: false, doc }
}

const fn output(name: &'static str, doc: &'static str) -> Output {
    Output { name, is_map: false, doc }
}

const fn output_map(name: &'static str, doc: &'static str) -> Output {
    Output { name, is_map: true, doc }
}

const DIRECTIONS: FieldKind = FieldKind::Choice(&["maximize", "minimize"]);

const DATASET: Output = output("dataset", "The version, as `name@sha256:…`.");
const VERSION: Output = output("version", "The number of the version.");
const BUNDLE: Output = output("bundle", "The digest of the bundle.");
const METRICS: Output = output_map("metrics", "The metrics on held-out rows, by name.");
const LABEL: Field = optional("label", FieldKind::Text, "The column to predict.");
const METRIC: &str = "The metric to compare by, such as `accuracy`.";
const DIRECTION: &str = "Whether more or less of the metric is better.";

/// The fields of a program that trains.
const OF_PROGRAM: OnlyWith =
    OnlyWith { field: "model", value: "command", needs: &["run"], takes: &["inputs", "env"] };

/// The fields that `train` and `sweep` share.
const TRAIN: [Field; 14] = [
    required("data", FieldKind::Text, "The dataset version to learn from."),
    optional(
        "model",
        FieldKind::Choice(&["xgboost", "cnn", "mlp", "command"]),
        "What is trained; `xgboost` if not given.",
    ),
    optional("preprocess", FieldKind::Texts, "Transformers before the model: component files, in order."),
    optional("postprocess", FieldKind::Texts, "Transformers after the model: component files, in order."),
    optional("config", FieldKind::Map, "The config of each transformer, by its name."),
    optional("params", FieldKind::Map, "Hyperparameters of the model."),
    LABEL,
    optional("train_rows", FieldKind::Integer, "Learn from this many rows only, the first ones."),
    optional("seed", FieldKind::Integer, "What all randomness comes from."),
    optional("threads", FieldKind::Integer, "Threads to train with."),
    optional("experiment", FieldKind::Text, "The experiment that the run belongs to."),
    optional(
        "run",
        FieldKind::Command,
        "Of `model: command`: a line for the shell, or a program and its arguments.",
    ),
    optional(
        "inputs",
        FieldKind::Files,
        "Of `model: command`: files that the program needs, as of a command.",
    ),
    optional("env", FieldKind::Map, "Of `model: command`: environment variables."),
];

/// The fields of `train` and what a search adds.
const SWEEP: [Field; 16] = {
    let [
        data,
        model,
        preprocess,
        postprocess,
        config,
        params,
        label,
        train_rows,
        seed,
        threads,
        experiment,
        run,
        inputs,
        env,
    ] = TRAIN;
    [
        data,
        model,
        preprocess,
        postprocess,
        config,
        params,
        label,
        train_rows,
        seed,
        threads,
        experiment,
        run,
        inputs,
        env,
        required(
            "space",
            FieldKind::Map,
            "The hyperparameters to search, each with its values or its range.",
        ),
        optional("search", FieldKind::Record(&SEARCH), "How to search."),
    ]
};

const SEARCH: [Field; 6] = [
    optional(
        "method",
        FieldKind::Choice(&["grid", "random", "tpe", "halving", "hyperband"]),
        "How trials are chosen.",
    ),
    optional("trials", FieldKind::Integer, "Most trials."),
    optional("metric", FieldKind::Text, METRIC),
    optional("direction", DIRECTIONS, DIRECTION),
    optional("parallel", FieldKind::Integer, "Trials at a time."),
    optional("time", FieldKind::Text, "When to stop, such as `30m`."),
];

const SPLIT: [Field; 2] = [
    required("test", FieldKind::Number, "The share of rows to hold out, between 0 and 1."),
    optional("seed", FieldKind::Integer, "What decides which rows are held out."),
];

/// All that `uses` may be.
pub const USES: &[Uses] = &[
    Uses {
        kind: StepKind::Data,
        name: "data",
        doc: "Adds files to a dataset as a version; the same files are the same version.",
        fields: &[
            required("name", FieldKind::Text, "The dataset."),
            required("paths", FieldKind::Texts, "Files, folders or patterns, relative to the pipeline file."),
            optional("parent", FieldKind::Text, "The version that this one was made from."),
            optional("tags", FieldKind::Texts, "Names that point to the version."),
        ],
        outputs: &[DATASET, VERSION],
        is_open: false,
        is_cached: false,
        only_with: None,
    },
    Uses {
        kind: StepKind::Transform,
        name: "transform",
        doc: "Makes a dataset version from another: filters rows, selects columns, applies transformers, splits.",
        fields: &[
            required("data", FieldKind::Text, "The dataset version to read."),
            required("name", FieldKind::Text, "The dataset to add the result to."),
            optional("preprocess", FieldKind::Texts, "Transformers: component files, in order."),
            optional("config", FieldKind::Map, "The config of each transformer, by its name."),
            optional("filter", FieldKind::Texts, "Rows to keep, each as `column operator value`."),
            optional("select", FieldKind::Texts, "Columns to keep."),
            optional("split", FieldKind::Record(&SPLIT), "Hold out rows for testing."),
            optional("rows", FieldKind::Integer, "Keep this many rows only, the first ones."),
        ],
        outputs: &[DATASET, VERSION, output("rows", "The number of rows.")],
        is_open: false,
        is_cached: true,
        only_with: None,
    },
    Uses {
        kind: StepKind::Train,
        name: "train",
        doc: "Trains a model and makes a bundle of it.",
        fields: &TRAIN,
        outputs: &[BUNDLE, output("run_id", "The run in the tracker."), METRICS],
        is_open: false,
        is_cached: true,
        only_with: Some(OF_PROGRAM),
    },
    Uses {
        kind: StepKind::Evaluate,
        name: "evaluate",
        doc: "Measures a bundle on a dataset version.",
        fields: &[
            required("bundle", FieldKind::Text, "The bundle to measure."),
            required("data", FieldKind::Text, "The dataset version to measure on."),
            LABEL,
        ],
        outputs: &[METRICS],
        is_open: false,
        is_cached: true,
        only_with: None,
    },
    Uses {
        kind: StepKind::Sweep,
        name: "sweep",
        doc: "Trains with many hyperparameters and keeps the best model.",
        fields: &SWEEP,
        outputs: &[
            BUNDLE,
            output("run_id", "The best run in the tracker."),
            output_map("params", "The best hyperparameters, by name."),
            METRICS,
        ],
        is_open: false,
        is_cached: true,
        only_with: Some(OF_PROGRAM),
    },
    Uses {
        kind: StepKind::Compare,
        name: "compare",
        doc: "Picks the best of the candidates and the present champion by a metric on the same data.",
        fields: &[
            required("candidates", FieldKind::Texts, "Bundles."),
            optional("champion", FieldKind::Text, "What serves at present, as `model@alias`."),
            required("data", FieldKind::Text, "The dataset version to measure all on."),
            required("metric", FieldKind::Text, METRIC),
            optional("direction", DIRECTIONS, DIRECTION),
            LABEL,
        ],
        outputs: &[
            output("bundle", "The digest of the best bundle."),
            METRICS,
            output("is_champion", "Whether the champion stays the best."),
        ],
        is_open: false,
        is_cached: true,
        only_with: None,
    },
    Uses {
        kind: StepKind::Register,
        name: "register",
        doc: "Makes a bundle a version of a model.",
        fields: &[
            required("bundle", FieldKind::Text, "The bundle."),
            required("name", FieldKind::Text, "The model."),
            optional("tags", FieldKind::Map, "Tags of the version."),
        ],
        outputs: &[output("model", "The model."), VERSION, BUNDLE],
        is_open: false,
        is_cached: false,
        only_with: None,
    },
    Uses {
        kind: StepKind::Promote,
        name: "promote",
        doc: "Moves an alias of a model to a version, if that is better than what the alias names.",
        fields: &[
            required("model", FieldKind::Text, "The model."),
            optional("version", FieldKind::Integer, "The version; the newest if not given."),
            optional("alias", FieldKind::Text, "The alias; `champion` if not given."),
            optional("data", FieldKind::Text, "The dataset version to compare on."),
            optional("metric", FieldKind::Text, METRIC),
            optional("direction", DIRECTIONS, DIRECTION),
            optional("margin", FieldKind::Number, "By how much the new version must be better."),
        ],
        outputs: &[
            output("promoted", "Whether the alias was moved."),
            output("version", "The version that the alias names now."),
            output("alias", "The alias."),
        ],
        is_open: false,
        is_cached: false,
        only_with: None,
    },
    Uses {
        kind: StepKind::Serve,
        name: "serve",
        doc: "Loads a model version and has it answer the sample recorded with it.",
        fields: &[required("model", FieldKind::Text, "The version, as `model@alias` or `model@number`.")],
        outputs: &[output("answered", "The rows that were answered.")],
        is_open: false,
        is_cached: false,
        only_with: None,
    },
    Uses {
        kind: StepKind::Monitor,
        name: "monitor",
        doc: "Compares what an endpoint saw with what its model learned from.",
        fields: &[
            required("endpoint", FieldKind::Text, "The endpoint."),
            required("detector", FieldKind::Text, "The detector: a component file."),
            optional("config", FieldKind::Map, "The detector's config."),
            optional(
                "model",
                FieldKind::Text,
                "The model whose rows to look at; the one that answered most of them in the last minute if not given.",
            ),
        ],
        outputs: &[
            output("verdict", "What the detector found."),
            output("drifted", "The number of columns that drifted."),
        ],
        is_open: false,
        is_cached: false,
        only_with: None,
    },
    Uses {
        kind: StepKind::Command,
        name: "command",
        doc: "Runs a program; what it writes as `name=value` to the file named by `HOST_OUTPUTS` are its outputs.",
        fields: &[
            required("run", FieldKind::Command, "A line for the shell, or a program and its arguments."),
            optional(
                "inputs",
                FieldKind::Files,
                "Files that it needs: paths of the pipeline's folder, or a map of paths to files and digests.",
            ),
            optional("env", FieldKind::Map, "Environment variables."),
        ],
        outputs: &[],
        is_open: true,
        is_cached: true,
        only_with: None,
    },
];
