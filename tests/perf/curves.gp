# curves.gp - draws what curves.sh has written: for each model the losses, and how far they lie apart
# SPDX-License-Identifier: MIT
#
# usage: gnuplot -c curves.gp FOLDER        writes FOLDER/curves.png
dir = ARG1
models = system("cd '".dir."' && ls *.tsv | sed 's/\\.tsv$//'")
n = words(models)
set terminal pngcairo size 900,220*n font 'sans,9' noenhanced
set output dir.'/curves.png'
set datafile missing '-'
set grid lc rgb '#dddddd'
set border lc rgb '#666666'
set lmargin 9
set multiplot layout n,2
do for [i=1:n] {
    m = word(models, i)
    file = dir.'/'.m.'.tsv'
    set autoscale xfix
    set format y '%g'
    set ytics autofreq
    unset logscale
    set xlabel 'step'
    set ylabel 'nats a token'
    set key top right
    set title m.': loss of each step'
    plot file using 1:3 with lines lw 2 lc rgb '#b8cce4' title 'fp32, GPU', \
         file using 1:2 with lines lc rgb '#1f4e9c' title 'bf16, GPU', \
         file using 1:4 with points pt 7 ps 0.25 lc rgb '#c0392b' title 'fp32, CPU'
    set title m.': distance'
    set logscale y
    set format y '%.0e'
    set ytics 100
    set yrange [1e-9:1]
    set key bottom right
    plot file using 1:(abs($2-$3)) with lines lc rgb '#1f4e9c' title 'bf16 from fp32, GPU', \
         file using 1:(abs($3-$4)) with lines lc rgb '#c0392b' title 'fp32, GPU from CPU', \
         file using 1:(abs($4-$5)) with lines lc rgb '#2e8b57' title 'fp32, CPU: AVX-512 from SSE'
    set autoscale y
}
unset multiplot
