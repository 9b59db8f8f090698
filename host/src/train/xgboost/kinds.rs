//! What values parameters take that have no field of their own; their ranges are libxgboost's to judge.

use crate::train::TrainError;
use crate::train::parameter::{parsed, refuse};

/// What a value is.
enum Kind {
    Number,
    Whole,
    Flag,
    OneOf(&'static [&'static str]),
    Text,
}

fn kind_of(name: &str) -> Kind {
    match name {
        "base_score" | "colsample_bylevel" | "colsample_bynode" | "colsample_bytree" | "max_delta_step"
        | "min_child_weight" | "min_split_loss" | "reg_alpha" | "reg_lambda" | "scale_pos_weight"
        | "subsample" => Kind::Number,
        "max_bin" | "max_cached_hist_node" | "max_leaves" | "num_parallel_tree" => Kind::Whole,
        "extmem_single_page" | "refresh_leaf" | "seed_per_iteration" => Kind::Flag,
        "grow_policy" => Kind::OneOf(&["depthwise", "lossguide"]),
        "sampling_method" => Kind::OneOf(&["uniform", "gradient_based"]),
        "tree_method" => Kind::OneOf(&["auto", "exact", "approx", "hist"]),
        _ => Kind::Text,
    }
}

/// Refuses a value of another type than the parameter's; `canonical` is libxgboost's name, `name` the user's.
pub(super) fn check(canonical: &str, name: &str, value: &str) -> Result<(), TrainError> {
    match kind_of(canonical) {
        Kind::Number => match parsed::<f64>(name, value, "a number")? {
            number if number.is_finite() => Ok(()),
            _ => Err(refuse(name, value, "a number".to_owned())),
        },
        Kind::Whole => parsed::<u32>(name, value, "a whole number that is not negative").map(|_| ()),
        Kind::Flag if ["0", "1", "false", "true"].contains(&value) => Ok(()),
        Kind::Flag => Err(refuse(name, value, "`true` or `false`".to_owned())),
        Kind::OneOf(known) if known.contains(&value) => Ok(()),
        Kind::OneOf(known) => {
            let known: Vec<String> = known.iter().map(|known| format!("`{known}`")).collect();
            Err(refuse(name, value, format!("one of {}", known.join(", "))))
        }
        Kind::Text => Ok(()),
    }
}
