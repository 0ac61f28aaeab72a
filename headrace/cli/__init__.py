"""The commands of `headrace`: one module a group, each with `register(app)`."""
