"""A listing directory by directory gives what a flat one would, in the same order, wherever it begins."""

from collections.abc import AsyncGenerator

from hypothesis import given, settings
from hypothesis import strategies as st

from understores.errors import NotFound
from understores.tree_listing import DIRECTORIES_A_PAGE, Child, split_points, walk

NAMES = st.text(alphabet="a-.b0é", min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join)


class Tree:
    """Directories and files; what is both is a directory. `hides` leaves out what `after` allows to leave out."""

    def __init__(self, paths: set[str], empty: set[str], batch: int, *, hides: bool) -> None:
        self.directories = {""}
        for path in [*paths, *(f"{one}/x" for one in empty)]:
            names = path.split("/")
            self.directories |= {"/".join(names[:depth]) for depth in range(1, len(names))}
        self.files = {path for path in paths if path not in self.directories}
        self._batch = batch
        self._hides = hides

    @property
    def keys(self) -> list[str]:
        everything = self.files | self.directories
        empty = {f"{one}/" for one in self.directories if one and not any(p.startswith(f"{one}/") for p in everything)}
        return sorted(self.files | empty)

    async def children(self, path: str, after: str) -> AsyncGenerator[list[Child], None]:
        if path not in self.directories:
            raise NotFound(path)
        lead = f"{path}/" if path else ""
        found = []
        for one in sorted((self.files | self.directories) - {""}):
            name = one[len(lead) :]
            if not one.startswith(lead) or "/" in name:
                continue
            child = Child(name, one in self.directories)
            if not self._hides or child.sort_name > after or after.startswith(child.sort_name):
                found.append(child)
        for start in range(0, len(found), self._batch):
            yield found[start : start + self._batch]


@given(
    paths=st.sets(PATHS, max_size=25),
    empty=st.sets(PATHS, max_size=3),
    prefix=st.one_of(st.just(""), PATHS, PATHS.map(lambda path: f"{path}/")),
    start_after=st.one_of(st.just(""), PATHS, PATHS.map(lambda path: f"{path}/")),
    batch=st.integers(1, 5),
    page=st.integers(1, 7),
    hides=st.booleans(),
)
async def test_a_walk_is_the_sorted_list(
    paths: set[str], empty: set[str], prefix: str, start_after: str, batch: int, page: int, hides: bool
) -> None:
    tree = Tree(paths, empty, batch, hides=hides)
    pages = walk(tree.children, prefix, start_after, page_entries=page)
    found = [one.key async for part in pages for one in part]
    assert found == [key for key in tree.keys if key.startswith(prefix) and key > start_after]


@settings(max_examples=40)
@given(
    paths=st.sets(PATHS, max_size=25),
    after=st.one_of(st.just(""), PATHS),
    until=st.one_of(st.just(""), PATHS),
    batch=st.integers(1, 5),
)
async def test_split_points_are_directories_between(paths: set[str], after: str, until: str, batch: int) -> None:
    tree = Tree(paths, set(), batch, hides=True)
    points = await split_points(tree.children, after, until)
    assert all(point[:-1] in tree.directories and after < point and (not until or point < until) for point in points)
    directories = [f"{one}/" for one in tree.directories if "/" not in one and one]
    inside = [one for one in directories if after < one and (not until or one < until)]
    if "/" not in after and len(inside) <= batch:
        assert sorted(points) == sorted(inside)


async def test_a_page_ends_after_some_directories_however_few_files_they_have() -> None:
    tree = Tree({f"d{i:03}/f" for i in range(200)}, set(), 50, hides=True)
    pages = [[one.key for one in page] async for page in walk(tree.children, "", "", page_entries=1000)]
    assert [key for page in pages for key in page] == tree.keys
    assert max(map(len, pages)) <= DIRECTORIES_A_PAGE
