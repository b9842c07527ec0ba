# Counts the lines of the files that are named: of code, of comments and of tests, in a row for each top-level directory
# and one for all. A blank line counts nowhere, a line that ends with a comment counts as code, and so does a docstring.
# Tests are the `mod tests` blocks of src/, with their comments, and everything else in tests/ that is no comment.

FNR == 1 {
    split(FILENAME, parts, "/")
    place = parts[1]
    if (!(place in seen)) { seen[place] = 1; places[++number] = place }
    comment = FILENAME ~ /\.rs$/ ? "^[ \t]*//" : FILENAME ~ /\.sql$/ ? "^[ \t]*--" : "^[ \t]*#([^!]|$)"
    attribute = in_tests = 0
}
/^[ \t\r]*$/ { next }
# It stands before other items, too.
/^#\[cfg\(test\)\]$/ && !in_tests { attribute = 1; next }
attribute {
    in_tests = /^mod tests \{/
    lines[place, in_tests ? "tests" : "code"]++
    attribute = 0
}
{
    kind = $0 ~ comment ? "comments" : place == "tests" ? "tests" : "code"
    lines[place, in_tests ? "tests" : kind]++
}
/^}/ { in_tests = 0 }

function row(name, code, comments, tests) {
    printf "%-10s %6d of code %6d of comments %6d of tests\n", name, code, comments, tests
}
END {
    for (i = 1; i <= number; i++) {
        place = places[i]
        row(place, lines[place, "code"], lines[place, "comments"], lines[place, "tests"])
        code += lines[place, "code"]; comments += lines[place, "comments"]; tests += lines[place, "tests"]
    }
    row("all", code, comments, tests)
}
