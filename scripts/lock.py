"""Print the installed packages as constraints, without those that pip or this machine brings."""

from importlib.metadata import distributions

LEFT_OUT = {"mlcycle-nb", "pip", "setuptools", "uv", "wheel"}

pinned = sorted(
    {(d.metadata["Name"].lower().replace("_", "-"), d.version.partition("+")[0]) for d in distributions()},
)
for name, version in pinned:
    if name not in LEFT_OUT:
        print(f"{name}=={version}")
