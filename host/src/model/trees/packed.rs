//! Nodes in memory, and the walk through them.
//!
//! The walk reads without checking its indices, which is a third of its time. Why it may: [`PackedTrees::new`], the only
//! way to make what is walked, looks at every node once and refuses one that leads outside.

use std::cell::Cell;

use super::categories::{CategorySets, NO_CATEGORY, category};

/// Trees walked at the same time: enough independent loads to hide the latency of each.
pub(super) const LANES: usize = 16;

/// Rows that pass through a group of trees before the next group does.
const BLOCK_ROWS: usize = 16;

/// Places of rows whose memory a thread keeps for the next.
const KEPT_PLACES_MAX: usize = 64 * 1024;

thread_local! {
    /// Memory for the places of a block of rows. New memory would be somewhere else each time, where no cache has it.
    static BLOCK: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
}

/// Steps after which a walk through deep trees looks whether every lane has arrived.
const STEPS_UNCHECKED: usize = 8;

/// The place of a row that leaves look at. What is there is [`NEVER_LESS`].
const LEAF_PLACE: usize = 0;

/// Less than no threshold, so that a walk never goes left.
const NEVER_LESS: u32 = u32::MAX;

/// Indices of values of leaves are less: the bits of larger ones are those of no number.
pub(super) const INDEX_END: usize = 0x7f80_0000;

/// What a tree adds to that has a value for every margin in each of its leaves.
pub(super) const EVERY_MARGIN: u32 = u32::MAX;

/// Less than every threshold of a split, so that a walk always goes left.
const ALWAYS_LESS: u32 = 0;

/// An integer for each number that is not NaN, which compares with others as the numbers do, both zeros being equal.
#[inline]
fn sort_key(value: f32) -> u32 {
    // Adding zero makes a zero of minus zero. Negative numbers sort backwards by their bits, and before the others.
    let bits = (value + 0.0).to_bits();
    let is_negative = (bits.cast_signed() >> 31).cast_unsigned();
    bits ^ (is_negative | 1 << 31)
}

/// The place of a row where a split on `feature` of `features` looks.
pub(super) fn place(feature: u32, default_left: bool, features: usize) -> u32 {
    if default_left { 1 + feature } else { 1 + feature + features as u32 }
}

/// The place of a row where a split by categories of `feature` of `features` looks.
pub(super) fn category_place(feature: u32, default_left: bool, features: usize) -> u32 {
    place(feature, default_left, features) + 2 * features as u32
}

/// Number of places of a row.
fn row_len(features: usize, has_categories: bool) -> usize {
    1 + features * if has_categories { 4 } else { 2 }
}

/// Appends the places of one row: that of leaves, the features with missing ones going left, and with them going right;
/// then, where there are splits that look at them, the categories in the same way.
fn push_row(features: &[f32], has_categories: bool, places: &mut Vec<u32>) {
    let or = |missing: u32| move |value: &f32| if value.is_nan() { missing } else { sort_key(*value) };
    places.push(NEVER_LESS);
    places.extend(features.iter().map(or(ALWAYS_LESS)));
    places.extend(features.iter().map(or(NEVER_LESS)));
    if has_categories {
        let or = |missing: u32| move |value: &f32| if value.is_nan() { missing } else { category(*value) };
        places.extend(features.iter().map(or(NO_CATEGORY)));
        places.extend(features.iter().map(or(NEVER_LESS)));
    }
}

/// One node in memory.
pub(super) trait PackedNode: Copy {
    /// The sort key of a split's threshold, the set of a split by categories, or what a leaf tells.
    fn threshold(&self) -> u32;
    /// The place of the row to compare with it.
    fn place(&self) -> usize;
    /// Distance to the right child, which the left one stands before; 0 for a leaf.
    fn distance(&self) -> usize;
}

/// A node of any tree.
#[derive(Debug, Clone, Copy)]
pub(super) struct WideNode {
    threshold: u32,
    place: u32,
    distance: u32,
}

impl WideNode {
    /// What lanes without a tree stand on.
    pub(super) const IDLE: Self = Self::leaf(0);

    /// A leaf that tells the bits of a value, or the index of the first of several, less than [`INDEX_END`].
    pub(super) const fn leaf(told: u32) -> Self {
        Self { threshold: told, place: LEAF_PLACE as u32, distance: 0 }
    }

    pub(super) fn split(place: u32, threshold: f32, distance: u32) -> Self {
        Self { threshold: sort_key(threshold), place, distance }
    }

    /// A split by the categories of a set: its place tells that it is one.
    pub(super) fn categories(place: u32, set: u32, distance: u32) -> Self {
        Self { threshold: set, place, distance }
    }
}

impl PackedNode for WideNode {
    #[inline]
    fn threshold(&self) -> u32 {
        self.threshold
    }

    #[inline]
    fn place(&self) -> usize {
        self.place as usize
    }

    #[inline]
    fn distance(&self) -> usize {
        self.distance as usize
    }
}

/// A node of a tree with few enough places and nodes.
#[derive(Debug, Clone, Copy)]
pub(super) struct CompactNode {
    threshold: u32,
    place: u16,
    distance: u16,
}

impl CompactNode {
    /// The same nodes, where every place of rows of `features` fits, looked at or not, and every distance.
    pub(super) fn all_of(nodes: &[WideNode], tables: &Tables, features: usize) -> Option<Vec<Self>> {
        u16::try_from(row_len(features, tables.has_categories()) - 1).ok()?;
        nodes.iter().map(Self::of).collect()
    }

    fn of(node: &WideNode) -> Option<Self> {
        let (place, distance) = (u16::try_from(node.place).ok()?, u16::try_from(node.distance).ok()?);
        Some(Self { threshold: node.threshold, place, distance })
    }
}

impl PackedNode for CompactNode {
    #[inline]
    fn threshold(&self) -> u32 {
        self.threshold
    }

    #[inline]
    fn place(&self) -> usize {
        usize::from(self.place)
    }

    #[inline]
    fn distance(&self) -> usize {
        usize::from(self.distance)
    }
}

/// What nodes name by a number.
#[derive(Debug)]
pub(super) struct Tables {
    /// Of splits by categories.
    pub(super) sets: CategorySets,
    /// Of leaves with a value for every margin: the values, one leaf after the other.
    pub(super) values: Vec<f32>,
}

impl Tables {
    /// Whether there are splits by categories.
    fn has_categories(&self) -> bool {
        !self.sets.is_empty()
    }
}

/// Trees that are walked together.
#[derive(Debug, Default)]
pub(super) struct TreeGroup {
    /// Indices of the roots; lanes without a tree stand on the leaf at index 0.
    roots: [u32; LANES],
    /// The margin that each tree adds to, or [`EVERY_MARGIN`].
    margins: [u32; LANES],
    /// Lanes that have a tree.
    trees: usize,
    /// Steps until the deepest of them ends.
    depth: usize,
}

impl TreeGroup {
    pub(super) fn is_full(&self) -> bool {
        self.trees == LANES
    }

    /// Adds a tree where there is room.
    pub(super) fn push(&mut self, root: u32, margin: u32, depth: usize) {
        let lanes = self.roots.iter_mut().zip(&mut self.margins);
        for lane in lanes.skip(self.trees).take(1) {
            (*lane.0, *lane.1) = (root, margin);
            self.trees += 1;
        }
        self.depth = self.depth.max(depth);
    }
}

/// Trees whose every step stays among their nodes.
#[derive(Debug)]
pub(super) struct PackedTrees<N> {
    nodes: Box<[N]>,
    groups: Box<[TreeGroup]>,
    tables: Tables,
    features: usize,
}

impl<N: PackedNode> PackedTrees<N> {
    /// Takes `nodes` with the groups that name their roots; the splits look at places of rows of `features`.
    ///
    /// Panics where a walk could leave the nodes or the row, which would be a mistake of the caller's, not of a file's.
    pub(super) fn new(nodes: Vec<N>, groups: Vec<TreeGroup>, tables: Tables, features: usize) -> Self {
        let row_len = row_len(features, tables.has_categories());
        let stays_inside = |(index, node): (usize, &N)| match node.distance() {
            0 => node.place() == LEAF_PLACE,
            distance => index + distance < nodes.len() && node.place() < row_len,
        };
        assert!(nodes.iter().enumerate().all(stays_inside), "a step leads outside");
        let mut roots = groups.iter().flat_map(|group| group.roots);
        assert!(roots.all(|root| (root as usize) < nodes.len()), "a root is outside");
        Self { nodes: nodes.into_boxed_slice(), groups: groups.into_boxed_slice(), tables, features }
    }

    pub(super) fn count(&self) -> usize {
        self.groups.iter().map(|group| group.trees).sum()
    }

    pub(super) fn byte_len(&self) -> usize {
        size_of_val(self.nodes.as_ref())
            + size_of_val(self.groups.as_ref())
            + size_of_val(self.tables.values.as_slice())
            + self.tables.sets.byte_len()
    }

    /// Adds the leaf that each row of `features` reaches in each tree to the row's `margin_count` of `margins`.
    pub(super) fn add_to(&self, margins: &mut [f32], margin_count: usize, features: &[f32]) {
        match self.tables.has_categories() {
            false => self.add_all::<false>(margins, margin_count, features),
            true => self.add_all::<true>(margins, margin_count, features),
        }
    }

    /// [`Self::add_to`], where `CATEGORIES` tells whether there are splits by categories.
    fn add_all<const CATEGORIES: bool>(&self, margins: &mut [f32], margin_count: usize, features: &[f32]) {
        let row_len = row_len(self.features, CATEGORIES);
        let block_rows = BLOCK_ROWS.min(features.len() / self.features);
        let mut block = BLOCK.take();
        block.reserve(block_rows * row_len);
        let has_leaves_of_several = !self.tables.values.is_empty();
        let blocks = features.chunks(BLOCK_ROWS * self.features);
        for (features, margins) in blocks.zip(margins.chunks_mut(BLOCK_ROWS * margin_count)) {
            block.clear();
            features.chunks_exact(self.features).for_each(|row| push_row(row, CATEGORIES, &mut block));
            for group in &self.groups {
                for (row, margins) in block.chunks_exact(row_len).zip(margins.chunks_exact_mut(margin_count))
                {
                    let leaves = self.walk::<CATEGORIES>(group, row);
                    if has_leaves_of_several {
                        self.add_several(group, leaves, margins);
                        continue;
                    }
                    for (&leaf, &margin) in leaves.iter().zip(&group.margins).take(group.trees) {
                        if let Some(margin) = margins.get_mut(margin as usize) {
                            *margin += leaf;
                        }
                    }
                }
            }
        }
        if block.capacity() <= KEPT_PLACES_MAX {
            block.clear();
            BLOCK.set(block);
        }
    }

    /// Adds the leaves of a group some of which may have a value for every margin.
    #[inline(never)]
    fn add_several(&self, group: &TreeGroup, leaves: [f32; LANES], margins: &mut [f32]) {
        for (leaf, &margin) in leaves.into_iter().zip(&group.margins).take(group.trees) {
            if margin == EVERY_MARGIN {
                let values = self.tables.values.get(leaf.to_bits() as usize..).unwrap_or_default();
                margins.iter_mut().zip(values).for_each(|(margin, value)| *margin += value);
            } else if let Some(margin) = margins.get_mut(margin as usize) {
                *margin += leaf;
            }
        }
    }

    /// Whether a walk goes left at a split of either kind, where its place of the row holds `value`.
    #[inline]
    fn leads_left(&self, node: &N, value: u32) -> bool {
        // Nothing branches here, as which splits are by categories cannot be foreseen: those by numbers have the empty
        // set, and those by categories a threshold that only missing features, which go right, do not go below.
        let is_by_categories = node.place() >= row_len(self.features, false);
        let (threshold, set) = match is_by_categories {
            false => (node.threshold(), CategorySets::EMPTY),
            true => (NEVER_LESS, node.threshold()),
        };
        (value < threshold) & !self.tables.sets.contains(set, value)
    }

    /// What the leaves tell that `row`, which [`push_row`] has made of `self.features`, reaches in one of `self.groups`,
    /// one for each lane; as floats of these bits, for which the compiler keeps more lanes in registers.
    #[inline(never)]
    fn walk<const CATEGORIES: bool>(&self, group: &TreeGroup, row: &[u32]) -> [f32; LANES] {
        // SAFETY: `index` is a root's or was left there by the step below.
        let node = |index: usize| unsafe { self.nodes.get_unchecked(index) };
        // SAFETY: the row has `row_len` places for trees such as these, and no node names one beyond.
        let value_for = |node: &N| unsafe { *row.get_unchecked(node.place()) };
        // Loops, since `map` of arrays is a call now and then, by what else is in the crate: that was 5 % of a request.
        let mut lanes = [0_usize; LANES];
        for (lane, &root) in lanes.iter_mut().zip(&group.roots) {
            *lane = root as usize;
        }
        let mut steps = group.depth;
        while steps > 0 {
            let unchecked = steps.min(STEPS_UNCHECKED);
            for _ in 0..unchecked {
                for lane in &mut lanes {
                    // A split leads to its right child, which `new` has found inside, or to the node before it. A leaf
                    // leads to itself: no threshold is more than what its place holds.
                    let node = node(*lane);
                    let left = match CATEGORIES {
                        false => value_for(node) < node.threshold(),
                        true => self.leads_left(node, value_for(node)),
                    };
                    *lane = *lane + node.distance() - usize::from(left);
                }
            }
            steps -= unchecked;
            if steps > 0 && lanes.iter().all(|&lane| node(lane).distance() == 0) {
                break;
            }
        }
        let mut leaves = [0.0; LANES];
        for (leaf, &lane) in leaves.iter_mut().zip(&lanes) {
            *leaf = f32::from_bits(node(lane).threshold());
        }
        leaves
    }
}
