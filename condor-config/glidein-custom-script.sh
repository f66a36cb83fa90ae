#!/bin/bash
# condor-criu for glideins: a custom script in GlideinWMS's form, as the OSPool's pilots run them. It is called with the path of glidein_config, and
# what it adds there is advertised by the pilot's startd. It never fails the pilot: a host without CRIU is a host like any other.
#
# Put condor-criu (a bundle) beside this script, or name it in CONDOR_CRIU.
glidein_config=$1
here=$(dirname "$(readlink -f "$0")")
criu=${CONDOR_CRIU:-$here/condor-criu}

add_config_line_source=$(grep '^ADD_CONFIG_LINE_SOURCE ' "$glidein_config" 2>/dev/null | awk '{print $2}')
if [ -z "$add_config_line_source" ] || [ ! -r "$add_config_line_source" ]; then
    echo "condor-criu: no add_config_line in $glidein_config; nothing is advertised" >&2
    exit 0
fi
# shellcheck disable=SC1090 # it is the pilot's
. "$add_config_line_source"
condor_vars_file=$(grep -i '^CONDOR_VARS_FILE ' "$glidein_config" | awk '{print $2}')

advertise() {
    # name, type (C: expression, S: string), value
    add_config_line "$1" "$3"
    add_condor_vars_line "$1" "$2" "-" "+" "N" "Y" "-"
}

"$criu" advertise 2>/dev/null | while IFS= read -r line; do
    case $line in
        -) break ;;
        *' = "'*) value=${line#* = \"}; advertise "${line%% = *}" S "${value%\"}" ;;
        *' = '*) advertise "${line%% = *}" C "${line#* = }" ;;
    esac
done
exit 0
