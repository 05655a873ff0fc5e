# shellcheck shell=sh disable=SC2034,SC2154
# site.sh - the settings of a cluster: site.conf as conf_KEY
# SPDX-License-Identifier: MIT
# Sourced behind pipelines/stage.sh. What the keys are: site.conf.example.

site_read() {
    conf_partition='' conf_account='' conf_qos='' conf_constraint='' conf_options='' conf_time='' conf_mem='' conf_bind=''
    conf_ranks_per_node=1 conf_cpus_per_rank=1 conf_gpus_per_node=0 conf_launcher=srun conf_mpi=pmi2 conf_modules='' conf_environment=''
    conf_bin='' conf_container='' conf_image='' conf_mounts='' conf_resume=requeue conf_chain_length=20 conf_signal=300 conf_max_retries=3
    conf_throttle=50 conf_max_array=1000 conf_logs=''
    conf_bcp_ace='' conf_bcp_instance='' conf_bcp_image='' conf_bcp_workspace='' conf_bcp_mount='' conf_bcp_org='' conf_bcp_team='' conf_bcp_runtime=7d
    conf_bcp_priority=NORMAL conf_bcp_order=50 conf_bcp_preempt=RESUMABLE conf_bcp_result=/results conf_bcp_datasets='' conf_bcp_labels='' conf_bcp_env=''
    conf_read "$1" partition account qos constraint options time mem bind ranks_per_node cpus_per_rank gpus_per_node launcher mpi modules \
        environment bin container image mounts resume chain_length signal max_retries throttle max_array logs \
        bcp_ace bcp_instance bcp_image bcp_workspace bcp_mount bcp_org bcp_team bcp_runtime bcp_priority bcp_order bcp_preempt bcp_result \
        bcp_datasets bcp_labels bcp_env
    number ranks_per_node cpus_per_rank chain_length signal throttle max_array
    number_or_0 gpus_per_node max_retries
    one_word bind mpi image mounts
    one_of launcher srun mpiexec
    one_of resume requeue chain
    one_of container '' pyxis apptainer
    [ -z "$conf_container" ] || need image bin
    [ "$conf_launcher$conf_container" != mpiexecpyxis ] || usage_error "$conf_file: 'container = pyxis' needs 'launcher = srun'"
}
# number_or_0 KEY...: whole numbers, 0 too
number_or_0() {
    for k; do
        eval "v=\$conf_$k"
        [ "$v" = 0 ] || number "$k"
    done
}
# one_word KEY...: these are parts of a command
one_word() {
    for k; do
        eval "v=\$conf_$k"
        case $v in *[[:space:]]*) usage_error "$conf_file: '$v' of '$k' has blanks" ;; esac
    done
}
# one_of KEY VALUE...
one_of() {
    key=$1
    shift
    eval "v=\$conf_$key"
    for k; do [ "$v" != "$k" ] || return 0; done
    usage_error "$conf_file: '$v' of '$key' is none of: $*"
}
