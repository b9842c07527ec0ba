# Completions of cloacinactl for fish, as `cloacinactl completions fish` prints them.
function __cloacinactl_place
    set -l place ''
    set -l operands 0
    set -l is_value 0
    set -l words (commandline -opc)
    for word in $words[2..-1]
        if test $is_value = 1
            set is_value 0
            continue
        end
        switch $word
            case @FLAGS_WITH_VALUE@
                set is_value 1
            case '-*'
            case '*'
                set -l longer (string trim -- "$place $word")
                if contains -- $longer @PLACES@
                    set place $longer
                else
                    set operands (math $operands + 1)
                end
        end
    end
    echo $place:$operands
end
function __cloacinactl_in
    string match -q -- "$argv:*" (__cloacinactl_place)
end
function __cloacinactl_at
    test (__cloacinactl_place) = "$argv"
end
complete -c cloacinactl -f
