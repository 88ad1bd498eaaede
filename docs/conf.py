"""The documentation site: `pip install -e '.[docs]' && python -m sphinx -W docs docs/_build`."""

import importlib
import inspect
import pathlib
import re

import vae_jax

project, author, release = "vae_jax", "the vae_jax authors", vae_jax.__version__
extensions = ["myst_nb", "sphinx.ext.mathjax"]
exclude_patterns = ["_build"]
html_theme, html_title = "sphinx_book_theme", "vae_jax"
html_static_path, html_css_files = ["_static"], ["site.css"]
html_theme_options = {"show_toc_level": 2, "use_download_button": False}
myst_enable_extensions, myst_heading_anchors = ["amsmath", "dollarmath"], 3
nb_execution_mode, nb_execution_timeout, nb_execution_raise_on_error = "force", 300, True

HERE = pathlib.Path(__file__).parent
# The faces of the package in the order in which one meets them; what each exports is its `__all__`.
FACES = ["objectives", "distributions", "models", "data", "training", "runs", "evaluation", "plotting", "reports"]
FACES += ["parallel"]


def setup(app):
    """Before pages are read, those that the code writes: the API, and the notebook that lies among the examples."""
    app.connect("builder-inited", lambda app: write_pages())


def write_pages():
    pages = {"api.md": reference(), "quickstart.ipynb": (HERE.parent / "examples/quickstart.ipynb").read_text("utf-8")}
    for name, text in pages.items():
        path = HERE / name
        if not path.exists() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")


def reference():
    """Every public function with its signature and docstring as they stand in the source."""
    intro = "`from vae_jax import elbo_fn` and what else is needed for it are exported by the package itself; "
    intro += "everything below by the folder that it is listed under, `from vae_jax.models import make_model`."
    return "\n\n".join(["# API", intro, *map(section, FACES)]) + "\n"


def section(face):
    module = importlib.import_module(f"vae_jax.{face}")
    about = (inspect.getdoc(module) or "").split("\n\n")[0]
    found = {name: getattr(module, name) for name in sorted(module.__all__, key=str.lower)}
    documented = {name: value for name, value in found.items() if inspect.isfunction(value) or inspect.isclass(value)}
    return "\n\n".join([f"## vae_jax.{face}", about, *(entry(name, value) for name, value in documented.items())])


def entry(name, value):
    """A heading and, word for word, what the source says: its `[K, B, Z]` and `q*` are no markup."""
    lines = [f"{name}{signature(value)}", "", *(inspect.getdoc(value) or "").splitlines()]
    for method in [] if inspect.isfunction(value) else methods(value):
        lines += ["", f".{method.__name__}{signature(method)}"]
        lines += [f"    {line}" for line in (inspect.getdoc(method) or "").splitlines()]
    return "\n".join([f"### {name}", "", "```text", *lines, "```"])


def methods(value):
    """The public methods that a class defines itself."""
    own = [method for name, method in vars(value).items() if not name.startswith("_")]
    return [method for method in own if inspect.isfunction(method) and method.__doc__]


def signature(value):
    """(x: jax.Array, ...) -> jax.Array, an argument a line where it is long."""
    try:
        found = inspect.signature(value)
    except ValueError:
        return ""
    text = str(found)
    if len(text) > 90:
        result = text.rpartition(") -> ")[2] if ") -> " in text else ""
        text = "(\n" + "".join(f"    {argument},\n" for argument in map(str, found.parameters.values())) + ")"
        text += f" -> {result}" * bool(result)
    text = re.sub(r"jax\.(jaxlib\._jax|_src\.basearray)\.Array|jaxlib\._jax\.Array", "jax.Array", text)
    return re.sub(r"\b(typing|collections\.abc|vae_jax(\.\w+)*)\.(?=[A-Z])", "", text)
