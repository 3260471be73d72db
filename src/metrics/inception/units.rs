//! What the network is made of.

/// A convolution without bias, a batch normalisation and a ReLU.
#[derive(Debug)]
pub(super) struct Unit {
    /// Of its tensors in the file.
    pub name: String,
    pub inputs: usize,
    pub outputs: usize,
    pub kernel: [usize; 2],
    pub stride: usize,
    pub padding: [usize; 2],
}

impl Unit {
    /// One that keeps the size of the image.
    fn same(name: String, inputs: usize, outputs: usize, kernel: [usize; 2]) -> Self {
        let padding = kernel.map(|side| side / 2);
        Self { name, inputs, outputs, kernel, stride: 1, padding }
    }

    /// One that does not pad it.
    fn valid(self, stride: usize) -> Self {
        Self { stride, padding: [0, 0], ..self }
    }
}

/// All of them, named as in the public file.
pub(super) fn units() -> Vec<Unit> {
    let mut units = stem();
    for (block, inputs, pooled) in [("5b", 192, 32), ("5c", 256, 64), ("5d", 288, 64)] {
        units.extend(block_35(block, inputs, pooled));
    }
    units.extend(down_to_17());
    for (block, inner) in [("6b", 128), ("6c", 160), ("6d", 160), ("6e", 192)] {
        units.extend(block_17(block, inner));
    }
    units.extend(down_to_8());
    for (block, inputs) in [("7b", 1280), ("7c", 2048)] {
        units.extend(block_8(block, inputs));
    }
    units
}

fn stem() -> Vec<Unit> {
    let unit = |name: &str, inputs, outputs, side| {
        Unit::same(format!("Conv2d_{name}"), inputs, outputs, [side, side])
    };
    vec![
        unit("1a_3x3", 3, 32, 3).valid(2),
        unit("2a_3x3", 32, 32, 3).valid(1),
        unit("2b_3x3", 32, 64, 3),
        unit("3b_1x1", 64, 80, 1),
        unit("4a_3x3", 80, 192, 3).valid(1),
    ]
}

/// Units of one block.
fn in_block(block: &str) -> impl Fn(&str, usize, usize, [usize; 2]) -> Unit {
    move |name, inputs, outputs, kernel| {
        Unit::same(format!("Mixed_{block}.branch{name}"), inputs, outputs, kernel)
    }
}

/// Blocks on 35 x 35 maps.
fn block_35(block: &str, inputs: usize, pooled: usize) -> Vec<Unit> {
    let unit = in_block(block);
    vec![
        unit("1x1", inputs, 64, [1, 1]),
        unit("5x5_1", inputs, 48, [1, 1]),
        unit("5x5_2", 48, 64, [5, 5]),
        unit("3x3dbl_1", inputs, 64, [1, 1]),
        unit("3x3dbl_2", 64, 96, [3, 3]),
        unit("3x3dbl_3", 96, 96, [3, 3]),
        unit("_pool", inputs, pooled, [1, 1]),
    ]
}

fn down_to_17() -> Vec<Unit> {
    let unit = in_block("6a");
    vec![
        unit("3x3", 288, 384, [3, 3]).valid(2),
        unit("3x3dbl_1", 288, 64, [1, 1]),
        unit("3x3dbl_2", 64, 96, [3, 3]),
        unit("3x3dbl_3", 96, 96, [3, 3]).valid(2),
    ]
}

/// Blocks on 17 x 17 maps.
fn block_17(block: &str, inner: usize) -> Vec<Unit> {
    let unit = in_block(block);
    vec![
        unit("1x1", 768, 192, [1, 1]),
        unit("7x7_1", 768, inner, [1, 1]),
        unit("7x7_2", inner, inner, [1, 7]),
        unit("7x7_3", inner, 192, [7, 1]),
        unit("7x7dbl_1", 768, inner, [1, 1]),
        unit("7x7dbl_2", inner, inner, [7, 1]),
        unit("7x7dbl_3", inner, inner, [1, 7]),
        unit("7x7dbl_4", inner, inner, [7, 1]),
        unit("7x7dbl_5", inner, 192, [1, 7]),
        unit("_pool", 768, 192, [1, 1]),
    ]
}

fn down_to_8() -> Vec<Unit> {
    let unit = in_block("7a");
    vec![
        unit("3x3_1", 768, 192, [1, 1]),
        unit("3x3_2", 192, 320, [3, 3]).valid(2),
        unit("7x7x3_1", 768, 192, [1, 1]),
        unit("7x7x3_2", 192, 192, [1, 7]),
        unit("7x7x3_3", 192, 192, [7, 1]),
        unit("7x7x3_4", 192, 192, [3, 3]).valid(2),
    ]
}

/// Blocks on 8 x 8 maps.
fn block_8(block: &str, inputs: usize) -> Vec<Unit> {
    let unit = in_block(block);
    vec![
        unit("1x1", inputs, 320, [1, 1]),
        unit("3x3_1", inputs, 384, [1, 1]),
        unit("3x3_2a", 384, 384, [1, 3]),
        unit("3x3_2b", 384, 384, [3, 1]),
        unit("3x3dbl_1", inputs, 448, [1, 1]),
        unit("3x3dbl_2", 448, 384, [3, 3]),
        unit("3x3dbl_3a", 384, 384, [1, 3]),
        unit("3x3dbl_3b", 384, 384, [3, 1]),
        unit("_pool", inputs, 192, [1, 1]),
    ]
}
