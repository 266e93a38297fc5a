"""Grids: as a paper prints them, and usable at any number of methods."""

from PIL import Image

from svdstory.jobs.report.grids import Grid, Row, cell_size, draw_grid, fitted, font, wrap


def grid(rows: int, columns: int = 4, groups: int = 1, shape=(1024, 1024)) -> Grid:
    square = Image.new("RGB", (64, 64 * shape[1] // shape[0]), "teal")
    return Grid(
        "A photo of a fox …",
        tuple(f"… place {c}" for c in range(columns)),
        tuple(f"seed {g}" for g in range(groups)),
        tuple(Row(f"method-{r}", ([square] * columns,) * groups) for r in range(rows)),
        shape,
    )


def test_few_methods_get_large_cells_and_45_methods_stay_under_eight_thousand_pixels():
    assert cell_size(grid(5))[0] == 256
    many = draw_grid(grid(45))
    assert many.height < 8000 and cell_size(grid(45))[0] >= 128


def test_cells_keep_the_images_proportions():
    width, height = cell_size(grid(3, shape=(1024, 768)))
    assert (width, height) == (256, 192)


def test_several_seeds_stand_side_by_side():
    assert draw_grid(grid(2, groups=3)).width > 2.5 * draw_grid(grid(2)).width


def test_a_hole_is_visible_and_its_cause_is_written():
    whole = grid(2)
    holed = Grid(**{**whole.__dict__, "rows": (whole.rows[0], Row("method-1", ("failed: out of memory",)))})
    assert draw_grid(holed).getcolors(1 << 24) != draw_grid(whole).getcolors(1 << 24)
    reds = [c for n, c in draw_grid(holed).getcolors(1 << 24) if c == (0x9C, 0x2B, 0x1B)]
    assert reds


def test_a_note_stands_on_the_grid():
    noted = Grid(**{**grid(1).__dict__, "notes": ("random weights - the images are noise",)})
    assert any(c == (0xFF, 0xF3, 0xD1) for n, c in draw_grid(noted).getcolors(1 << 24))


def test_long_labels_are_wrapped_and_nothing_is_lost():
    text, face = "consistory-no-query-blending with a verylongwordthatfitsnolineatall", font(14)
    lines = wrap(text, face, 100)
    assert max(face.getlength(line) for line in lines) <= 100
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


def test_labels_may_be_cyrillic():
    faces = [font(20).getmask(letter).getbbox() for letter in "Жя"]
    assert all(faces) and bytes(font(20).getmask("Ж")) != bytes(font(20).getmask("�"))


def test_small_pictures_grow_by_whole_pixels():
    small = Image.new("RGB", (64, 64), "white")
    small.putpixel((3, 3), (0, 0, 0))
    assert sorted(c for _, c in fitted(small, (256, 256)).getcolors()) == [(0, 0, 0), (255, 255, 255)]
