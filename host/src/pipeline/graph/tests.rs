use super::super::PipelineSpec;
use super::*;

fn plan(text: &str) -> Plan {
    let text = format!("version: 1\nname: test\n{text}");
    PipelineSpec::parse("p.yaml", &text).unwrap().plan(&[]).unwrap()
}

const DIAMOND: &str = "\
steps:
  data: { uses: data, with: { name: a, paths: x } }
  train:
    uses: train
    with: { data: '${{ steps.data.outputs.dataset }}' }
    matrix: { kind: ['<a> & \"b\"', '`#;'] }
  check: { uses: command, with: { run: x } }
  compare:
    uses: compare
    needs: check
    with: { candidates: '${{ steps.train.outputs.bundle }}', data: '${{ steps.data.outputs.dataset }}', metric: m }
";

const STATUSES: [Option<StepStatus>; 3] =
    [Some(StepStatus::Cached), Some(StepStatus::Failed), Some(StepStatus::Running)];

#[test]
fn layers_are_listed_for_a_terminal() {
    let plan = plan(DIAMOND);
    let expected = "\
1  data                       data · cached
   check                      command
2  train[kind=\"<a> & \\\"b\\\"\"]  train · failed   ← data
   train[kind=\"`#;\"]          train · running  ← data
3  compare                    compare          ← data, train[kind=\"<a> & \\\"b\\\"\"], train[kind=\"`#;\"], check
";
    assert_eq!(text(&plan, &STATUSES), expected);
    assert!(text(&plan, &[]).starts_with("1  data                       data\n"));
}

#[test]
fn mermaid_labels_are_escaped() {
    let expected = r##"flowchart LR
  s0["data<br/>data · cached"]
  s1["train[kind=#34;#60;a#62; #38; #92;#34;b#92;#34;#34;]<br/>train · failed"]
  s2["train[kind=#34;#96;#35;#59;#34;]<br/>train · running"]
  s3["check<br/>command"]
  s4["compare<br/>compare"]
  s0 --> s1
  s0 --> s2
  s0 --> s4
  s1 --> s4
  s2 --> s4
  s3 --> s4
  classDef cached fill:#ddf4ff,stroke:#0969da,color:#000000
  class s0 cached
  classDef running fill:#fff8c5,stroke:#9a6700,color:#000000
  class s2 running
  classDef failed fill:#ffebe9,stroke:#cf222e,color:#000000
  class s1 failed
"##;
    assert_eq!(mermaid(&plan(DIAMOND), &STATUSES), expected);
}

#[test]
fn svg_is_escaped_and_has_words_for_those_who_do_not_see_it() {
    let drawn = svg(&plan(DIAMOND), &STATUSES);
    assert!(drawn.contains("<title id=\"pipeline-title\">Pipeline test</title>"));
    assert!(drawn.contains("<desc id=\"pipeline-desc\">5 steps. data (data · cached). "));
    assert!(drawn.contains("train[kind=&quot;&lt;a&gt; &amp; \\&quot;b\\&quot;&quot;]"));
    assert!(drawn.contains("train · failed"));
    assert_eq!(drawn.matches("<path d=\"M").count(), 1 + 6, "one arrowhead and an edge for each need");
    assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    assert!(balanced(&drawn), "{drawn}");
}

#[test]
fn boxes_of_a_layer_do_not_overlap() {
    let steps: String = (0..60)
        .map(|index| {
            let needs: Vec<String> = (1..4)
                .filter(|back| index >= back * 7)
                .map(|back| format!("s{}", index - back * 7 + (index * back) % 5))
                .filter(|name| *name != format!("s{index}"))
                .collect();
            let needs = needs.iter().filter(|name| name[1..].parse::<usize>().unwrap() < index);
            let needs: Vec<&str> =
                needs.map(String::as_str).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
            format!("  s{index}: {{ uses: command, needs: [{}], with: {{ run: x }} }}\n", needs.join(","))
        })
        .collect();
    let plan = plan(&format!("steps:\n{steps}"));
    let layout = layout::layout(&nodes(&plan, &[]));
    assert!(layout.edges.len() > 60);
    for layer in 0..layout.layer_count {
        let mut rows: Vec<f64> =
            layout.vertices.iter().filter(|vertex| vertex.layer == layer).map(|vertex| vertex.row).collect();
        rows.sort_by(f64::total_cmp);
        for pair in rows.windows(2) {
            assert!(pair[1] - pair[0] > 0.999, "{rows:?}");
        }
        assert!(rows.iter().all(|row| (0.0..layout.row_count).contains(row)));
    }
    for edge in &layout.edges {
        let layers: Vec<usize> = edge.iter().map(|index| layout.vertices[*index].layer).collect();
        assert!(layers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{layers:?}");
    }
}

#[test]
fn members_of_a_large_matrix_share_a_box() {
    let list: Vec<String> = (0..500).map(|index| index.to_string()).collect();
    let matrix = format!("matrix: {{ x: [{}] }}", list.join(","));
    let plan = plan(&format!(
        "steps:\n  a: {{ uses: command, with: {{ run: x }}, {matrix} }}\n  b: {{ uses: command, needs: a, with: {{ run: x \
         }}, {matrix} }}\n  c: {{ uses: command, needs: [b], with: {{ run: x }} }}\n"
    ));
    let mut statuses = vec![Some(StepStatus::Finished); 500];
    statuses[7] = Some(StepStatus::Failed);
    assert_eq!(
        text(&plan, &statuses),
        "1  a × 500  command · 499 finished, 1 failed\n2  b × 500  command                           ← a × 500\n\
         3  c        command                           ← b × 500\n"
    );
    assert_eq!(mermaid(&plan, &[]).lines().count(), 1 + 3 + 2);
    assert!(balanced(&svg(&plan, &statuses)));
}

/// Whether every tag that is opened is closed, in order, and no `<` or `&` stands for itself.
fn balanced(text: &str) -> bool {
    let mut open: Vec<&str> = Vec::new();
    for piece in text.split('<').skip(1) {
        let (tag, after) = piece.split_once('>').unwrap();
        if after.split('&').skip(1).any(|code| code.split_once(';').is_none_or(|(code, _)| code.len() > 5)) {
            return false;
        }
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return false;
            }
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    open.is_empty()
}
